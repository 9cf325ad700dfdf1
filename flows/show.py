"""What one artifact holds: schema, rows, a sample and the key figures of its manifest."""

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from data_lake.errors import UserError
from data_lake.lake import Lake
from data_lake.messages import escape_control
from data_lake.schemas import ARTIFACTS
from data_lake.tables import open_parts
from flows import text
from flows.lift import lift
from flows.positions import check_positions

SAMPLE = 5
DEEP = 2
WIDE = 140
WHOLE = ("metrics",)
"""Artifacts that are shown with all their rows."""


def describe(
    lake: Lake, artifact: str, user: str | None = None, table: str | None = None, is_fresh: bool = False
) -> dict[str, Any]:
    """Return what `edt show ARTIFACT --json` prints; where the last run failed and left evidence, that instead.

    What `is_fresh` is shown whatever failed before: the inputs are again those that it was made of.
    `rows` is a sample, all rows of a user when `user` names one, and all rows of `metrics`. An artifact of several
    tables shows its first one unless `table` names another.
    """
    failed = None if is_fresh else lake.failed_run(artifact)
    folder, manifest = failed or (lake.verified_path(artifact, full=False), lake.manifest(artifact))
    tables = ARTIFACTS[artifact].tables
    name = next(iter(tables)) if table is None else table
    if name not in tables:
        raise UserError(f"{artifact} has no table {name!r}. It has {', '.join(filter(None, tables)) or 'only one'}.")
    assert manifest is not None  # `verified_path` found one
    positions = None if failed else check_positions(lake, artifact)
    data = open_parts(folder / name)
    try:
        if user is not None:
            rows = data.to_table(filter=_of_user(folder, artifact, data, user))
        else:
            rows = data.to_table() if artifact in WHOLE else data.head(SAMPLE)
    except (OSError, pa.ArrowInvalid):
        lake.verified_path(artifact, full=True)
        raise
    return {
        "artifact": artifact,
        **({"error": manifest.error} if failed else {}),
        **({"table": name, "tables": list(tables)} if name else {}),
        "fingerprint": manifest.fingerprint,
        "folder": str(folder),
        "count": data.count_rows(),
        "schema": {field.name: str(field.type) for field in data.schema},
        **({"positions": str(positions)} if positions else {}),
        "figures": _with_recall(manifest.figures),
        **({"lift": lift(lake)} if artifact == "grounded_items" and not failed else {}),
        "seconds": manifest.seconds,
        "rows": [plain(row) for row in rows.to_pylist()],
    }


def format_artifact(shown: Mapping[str, Any]) -> str:
    """Return what `describe` found as text for a person."""
    head = shown["artifact"] + (f", table {shown['table']} of {', '.join(shown['tables'])}" if "table" in shown else "")
    failed = f"\nof a run that failed: {escape_control(shown['error'])}" if "error" in shown else ""
    positions = f"\n{shown['positions']}." if "positions" in shown else ""
    parts = [
        f"{head}: {shown['count']:,} rows, made in {shown['seconds']:.1f} s{failed}\n{shown['folder']}{positions}",
        text.table([{"column": name, "type": kind} for name, kind in shown["schema"].items()]),
        text.table([{"figure": name, "value": value} for name, value in _flat(shown["figures"])], WIDE),
        text.table(shown.get("lift", [])),
    ]
    if shown["artifact"] in WHOLE:
        parts.append(text.table(shown["rows"]))
    else:
        rows = [[{"column": name, "value": _brief(value)} for name, value in row.items()] for row in shown["rows"]]
        parts += map(text.table, rows) if rows else ["No row to show."]
    return "\n\n".join(filter(None, parts))


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


def _of_user(folder: Path, artifact: str, data: ds.Dataset, user: str) -> ds.Expression:
    """Return the filter for one user's rows, by the id in the data or by the number that the trainer knows it by."""
    names = data.schema.names
    if "user_id" in names:
        return ds.field("user_id") == user
    if "user" in names and "users" in ARTIFACTS[artifact].tables:
        known = open_parts(folder / "users").to_table(filter=ds.field("user_id") == user)
        return ds.field("user").isin(known["user"].combine_chunks() if known.num_rows else pa.array([], pa.int32()))
    raise UserError(f"{artifact} has no rows of users. Leave --user out.")


def _flat(figures: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of each figure; figures that lie deep and have no deeper ones stand in one line."""
    for name, value in figures.items():
        if not isinstance(value, Mapping):
            yield prefix + name, value
        elif depth >= DEEP and not any(isinstance(each, Mapping) for each in value.values()):
            yield prefix + name, ", ".join(f"{key} {text.cell(each)}" for key, each in value.items())
        else:
            yield from _flat(value, f"{prefix}{name}: ", depth + 1)


def _brief(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    shown = json.dumps(value[:SAMPLE], ensure_ascii=False)[1:-1]
    return f"{shown}, … ({len(value)})" if len(value) > SAMPLE else shown
