"""What one artifact holds: schema, rows, a sample and the key figures of its manifest."""

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.dataset as ds

from data_lake.errors import UserError
from data_lake.lake import Lake
from data_lake.messages import escape_control
from data_lake.schemas import ALL, ARTIFACTS
from data_lake.tables import open_parts
from flows import text
from flows.lift import lift
from flows.positions import check_positions
from flows.protocols import notes_on_protocols

SAMPLE = 5
DEEP = 2
WIDE = 140
WHOLE_TEXT = 1_000_000
METRICS = "metrics"
PAGE = {"split": "test", "group": ALL}
"""What `metrics` is narrowed to unless something else is asked for; the phase is the last one that was measured."""


@dataclass(frozen=True)
class Wanted:
    """Which rows of an artifact to show: those of a user, and those for which an SQL condition holds.

    An artifact of several tables shows its first one unless `table` names another. `metrics` shows, for each of phase,
    split and group that is null, the last phase's test figures of all users; of another artifact they are refused.
    """

    user: str | None = None
    table: str | None = None
    where: str | None = None
    limit: int | None = None
    phase: str | None = None
    split: str | None = None
    group: str | None = None
    metric: str | None = None

    @property
    def page(self) -> dict[str, str]:
        """The columns of `metrics` that are narrowed by name."""
        named = {"phase": self.phase, "split": self.split, "group": self.group, "metric": self.metric}
        return {name: value for name, value in named.items() if value is not None}


def describe(lake: Lake, artifact: str, wanted: Wanted = Wanted(), is_fresh: bool = False) -> dict[str, Any]:
    """Return what `edt show ARTIFACT --json` prints; where the last run failed and left evidence, that instead.

    What `is_fresh` is shown whatever failed before: the inputs are again those that it was made of. `rows` is a sample,
    or up to `limit` of the wanted rows, of which there are `found`; all where neither a limit is given nor the sample
    is of all rows. `titles` has the titles of the items in `rows`.
    """
    failed = None if is_fresh else lake.failed_run(artifact)
    folder, manifest = failed or (lake.verified_path(artifact, full=False), lake.manifest(artifact))
    tables = ARTIFACTS[artifact].tables
    name = next(iter(tables)) if wanted.table is None else wanted.table
    if name not in tables:
        raise UserError(f"{artifact} has no table {name!r}. It has {', '.join(filter(None, tables)) or 'only one'}.")
    assert manifest is not None  # `verified_path` found one
    positions = None if failed else check_positions(lake, artifact)
    data = open_parts(folder / name)
    narrowed = _narrowed(artifact, folder, data, wanted)
    is_sample = wanted.user is None and wanted.where is None and artifact != METRICS
    limit = SAMPLE if wanted.limit is None and is_sample else wanted.limit
    try:
        found = narrowed.select(pl.len()).collect().item()
        rows = (narrowed if limit is None else narrowed.head(limit)).collect().to_dicts()
    except (OSError, pl.exceptions.ComputeError):
        lake.verified_path(artifact, full=True)
        raise
    return {
        "artifact": artifact,
        **({"error": manifest.error} if failed else {}),
        **({"table": name, "tables": list(tables)} if name else {}),
        "fingerprint": manifest.fingerprint,
        "folder": str(folder),
        "count": data.count_rows(),
        "found": found,
        "schema": {field.name: str(field.type) for field in data.schema},
        **({"positions": str(positions)} if positions else {}),
        "figures": _with_recall(manifest.figures),
        **({"lift": lift(lake)} if artifact == "grounded_items" and not failed else {}),
        "seconds": manifest.seconds,
        "rows": [plain(row) for row in rows],
        "titles": _titles(lake, rows),
    }


def _narrowed(artifact: str, folder: Path, data: ds.Dataset, wanted: Wanted) -> pl.LazyFrame:
    """Return the wanted rows, not read yet."""
    rows = pl.scan_parquet(data.files)
    if artifact == METRICS:
        phases = rows.select(pl.col("phase").unique().sort()).collect()["phase"].to_list()
        page = PAGE | ({"phase": phases[0]} if phases else {}) | wanted.page
        rows = rows.filter(*(pl.col(name) == value for name, value in page.items()))
    elif wanted.page:
        raise UserError(f"--{next(iter(wanted.page))} is for metrics. Narrow {artifact} with --where.")
    if wanted.user is not None:
        rows = rows.filter(_of_user(folder, artifact, data, wanted.user))
    if wanted.where is not None:
        try:
            rows = rows.sql(f"select * from self where {wanted.where}")
            rows.collect_schema()
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            columns = ", ".join(data.schema.names)
            raise UserError(f"--where {wanted.where!r}: {reason}. The columns are {columns}.") from error
    return rows


def _titles(lake: Lake, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the titles of the items that rows name, as far as the catalogue has one."""
    named: set[str] = set()
    for row in rows:
        named.update([row["item_id"]] if row.get("item_id") else [], row.get("item_ids") or [])
    if not named or lake.manifest("items") is None:
        return {}
    items = open_parts(lake.path("items")).to_table(
        ["item_id", "title"], filter=ds.field("item_id").isin(sorted(named))
    )
    return {row["item_id"]: row["title"] for row in items.to_pylist() if row["title"]}


def format_artifact(shown: Mapping[str, Any], whole: bool = False) -> str:
    """Return what `describe` found as text for a person, key figures first; `whole` cuts no text."""
    head = shown["artifact"] + (f", table {shown['table']} of {', '.join(shown['tables'])}" if "table" in shown else "")
    failed = f"\nof a run that failed: {escape_control(shown['error'])}" if "error" in shown else ""
    positions = f"\n{shown['positions']}." if "positions" in shown else ""
    noise_filter = shown["figures"].get("noise_filter", {})
    others = {name: value for name, value in shown["figures"].items() if name != "noise_filter"}
    figures = [{"figure": name, "value": value} for name, value in flat(others)]
    parts = [
        f"{head}: {shown['count']:,} rows, made in {shown['seconds']:.1f} s{failed}\n{shown['folder']}{positions}",
        text.table(figures, WIDE),
        *_over_parts(list(noise_filter.values())),
        text.table(shown.get("lift", [])),
    ]
    if shown["artifact"] == METRICS:
        return "\n\n".join(filter(None, [*parts, _metrics_page(shown["rows"])]))
    parts.append("Columns: " + ", ".join(f"{name} {kind}" for name, kind in shown["schema"].items()))
    parts += _rows(shown["rows"], shown["titles"], WHOLE_TEXT if whole else text.WIDEST)
    parts.append(f"{len(shown['rows']):,} of {shown['found']:,} rows shown." if shown["rows"] else "No row to show.")
    return "\n\n".join(filter(None, parts))


def _over_parts(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the noise filter learnt for each part of the users as tables: means, and users and answers summed."""
    relevance = [{"domain": domain, **found} for part in parts for domain, found in part["relevance"].items()]
    worth = [
        {"pair": pair, **band} for part in parts for pair, bands in part["worth"].items() for band in bands.values()
    ]
    tables = [
        text.table(
            pl.DataFrame(rows)
            .group_by(key, maintain_order=True)
            .agg(pl.col(pl.Int64).sum(), pl.col(pl.Float64).mean())
            .to_dicts()
        )
        for rows, key in ((relevance, ["domain"]), (worth, ["pair", "band"]))
        if rows
    ]
    return [f"The noise filter, over its {len(parts)} parts of the users:", *tables] if tables else []


def _metrics_page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line per protocol and domain with each metric, and its interval where the terminal has room for all."""
    if not rows:
        return "No row to show. Look at the values by `edt show metrics --json`, or leave a choice out."
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["phase"], row["split"], row["group"], row["protocol"], row["domain"] or "over all")
        named = dict(zip(("protocol", "domain"), key[3:], strict=True))
        line = lines.setdefault(key, {**named, "users": row["users"]})
        line[row["metric"]] = f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
    of = "; ".join(sorted({", ".join(key[:3]) for key in lines}))
    names = dict.fromkeys(name for line in lines.values() for name in line)
    page = [{name: line.get(name) for name in names} for line in lines.values()]
    notes = notes_on_protocols({(row["protocol"], row["domain"]): row["candidates"] for row in rows if row["domain"]})
    table = text.table(page)
    if _fits(table) or not sys.stdout.isatty():
        return "\n".join([f"{of}; value [95 % interval over users]", table, *notes])
    values = [
        {name: value.partition(" [")[0] if isinstance(value, str) else value for name, value in line.items()}
        for line in page
    ]
    more = f"Intervals: in a terminal of {_width(table)} columns, by --metric NAME or by --json."
    return "\n".join([of, text.table(values), more, *notes])


def _width(table: str) -> int:
    return max(map(len, table.splitlines()), default=0)


def _fits(table: str) -> bool:
    """Say whether no line is wider than the terminal."""
    return _width(table) <= shutil.get_terminal_size().columns


def _rows(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str], widest: int) -> list[str]:
    """Return rows as one table where it fits the terminal, else a table of columns and values for each."""
    named = [
        {name: _with_titles(name, value, titles, widest == WHOLE_TEXT) for name, value in row.items()} for row in rows
    ]
    for row in named:
        if titles and "item_id" in row:
            row.setdefault("title", titles.get(row["item_id"]))
    table = text.table(named, widest)
    if _fits(table):
        return [table]
    return [text.table([{"column": name, "value": value} for name, value in row.items()], widest) for row in named]


def _with_titles(name: str, value: Any, titles: Mapping[str, str], whole: bool) -> Any:
    """Return a value as it is shown: of a list the first few, of items with their titles."""
    if not isinstance(value, list):
        return value
    few = value if whole else value[:SAMPLE]
    named = [f"{each} ({titles[each]})" if name == "item_ids" and each in titles else each for each in few]
    shown = json.dumps(named, ensure_ascii=False)[1:-1]
    return shown if len(few) == len(value) else f"{shown}, … ({len(value)})"


def plain(value: Any) -> Any:
    """Return a value of a table as JSON knows it; a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_recall(figures: dict[str, Any]) -> dict[str, Any]:
    """Add the recall of an index to the counts that it is made of."""
    counts = figures.get("neighbours")
    if not counts or not counts["checked"]:
        return figures
    return figures | {"neighbours": counts | {"recall": counts["found"] / counts["checked"]}}


def _of_user(folder: Path, artifact: str, data: ds.Dataset, user: str) -> pl.Expr:
    """Return the condition for one user's rows, by the id in the data or by the number that the trainer knows it by."""
    names = data.schema.names
    if "user_id" in names:
        return pl.col("user_id") == user
    if "user" in names and "users" in ARTIFACTS[artifact].tables:
        known = open_parts(folder / "users").to_table(filter=ds.field("user_id") == user)
        return pl.col("user").is_in(known["user"].to_pylist())
    raise UserError(f"{artifact} has no rows of users. Leave --user out.")


def flat(figures: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of each figure; figures that lie deep and have no deeper ones stand in one line."""
    for name, value in figures.items():
        if not isinstance(value, Mapping):
            yield prefix + name, value
        elif depth >= DEEP and not any(isinstance(each, Mapping) for each in value.values()):
            yield prefix + name, ", ".join(f"{key} {text.cell(each)}" for key, each in value.items())
        else:
            yield from flat(value, f"{prefix}{name}: ", depth + 1)
