"""Two runs side by side: what they were made of, the paired differences of their metrics, and whom they served."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from data_lake.lake import Lake, Manifest
from data_lake.schemas import TEST
from data_lake.tables import open_parts
from flows.lineage import Lineage, changes_between, lineage
from flows.run import Run
from flows.settings import load_settings
from flows.stages import open_lake
from flows.text import table
from model.evaluation.compare import Difference, paired
from pipeline.llm.backends import BACKENDS, NONE

CURRENT, PREVIOUS = "current", "previous"
PHASE = "finetune"
LEAST = 4
"""Digits of a fingerprint that name a run."""
MOST_MOVED = 5
RESAMPLES = 2000


@dataclass(frozen=True)
class Measured:
    """An evaluation that the lake keeps: its run, and the folder of its ranks."""

    lake: Lake
    run: Manifest

    @property
    def name(self) -> str:
        return f"{self.lake.home.name} {self.run.fingerprint[:8]} of {self.run.started}"

    def titles(self) -> pl.DataFrame:
        """Return item_id and title of the items that the lake holds."""
        return pl.read_parquet(open_parts(self.lake.path("items")).files, columns=["item_id", "title"])


@dataclass(frozen=True)
class Moved:
    """A user's target, and its rank in both runs."""

    user_id: str
    domain: str
    item_id: str
    title: str | None
    rank_a: int
    rank_b: int


@dataclass(frozen=True)
class Compared:
    """What sets two runs apart. Differences are `b - a`, over users who have the same target in both."""

    a: str
    b: str
    changed: list[str]
    rows: list[dict[str, object]]
    differences: list[dict[str, object]]
    won: list[Moved]
    lost: list[Moved]

    def __str__(self) -> str:
        parts = [f"A: {self.a}\nB: {self.b}", "What differs:\n" + "\n".join(f"  {each}" for each in self.changed)]
        if self.rows:
            parts.append(table(self.rows))
        parts.append("B - A, test, phase 2, with 95 % intervals over users:\n" + table(self.differences))
        for title, moved in (("Ranked higher in B", self.won), ("Ranked lower in B", self.lost)):
            if moved:
                parts.append(f"{title}:\n" + table([vars(each) for each in moved]))
        return "\n\n".join(parts)


def compare(run: Run, a: str, b: str) -> Compared:
    """Compare two evaluations: "current", "previous", a generator, digits of a fingerprint, or another settings file.

    A generator names the last evaluation that rests on its replies; digits are a fingerprint's first. Raises UserError
    where there is no such evaluation, or where no user has the same target in both.
    """
    before, now = (_find(run, name) for name in (a, b))
    lines = [lineage(each.lake, [each.run]) for each in (before, now)]
    ranks = ranks_of_both(*(ranks_of_test(each.lake, each.run) for each in (before, now)))
    if not len(ranks):
        raise UserError(
            f"No user has the same {TEST} target in {before.name} and {now.name}. Compare runs of one split."
        )
    protocol = ranks["protocol"].unique(maintain_order=True)[-1]
    moved = _moved(ranks.filter(pl.col("protocol") == protocol), now.titles())
    return Compared(
        before.name,
        now.name,
        changes_between(*lines) or ["nothing that the runs record"],
        _rows(*lines),
        _differences(ranks),
        [each for each in reversed(moved) if each.rank_b < each.rank_a][:MOST_MOVED],
        [each for each in moved if each.rank_b > each.rank_a][:MOST_MOVED],
    )


def _find(run: Run, name: str) -> Measured:
    lake = run.lake
    if name.endswith(".toml"):
        lake, name = open_lake(load_settings(Path(name))), CURRENT
    current = lake.manifest("metrics")
    if current is None:
        raise UserError(f"Dataset '{lake.home.name}' has no metrics yet. Make them by `edt run`.")
    others = [each for each in lake.kept_runs("metrics") if each.fingerprint != current.fingerprint]
    if name == CURRENT:
        lake.path("ranks")
        return Measured(lake, current)
    if name == PREVIOUS and others:
        return Measured(lake, others[0])
    if name in (NONE, *BACKENDS):
        named = [each for each in (current, *others) if lineage(lake, [each]).generator == name][:1]
    else:
        named = [each for each in (current, *others) if len(name) >= LEAST and each.fingerprint.startswith(name)]
    if len(named) != 1:
        kept = ", ".join(f"{each.fingerprint[:8]} of {each.started}" for each in (current, *others))
        raise UserError(
            f"There is no run {name!r} to compare. The lake keeps {kept}. Name one by its first digits, as "
            f"{CURRENT} or {PREVIOUS}, by its generator, or give another settings file."
        )
    return Measured(lake, named[0])


def ranks_of_test(lake: Lake, run: Manifest) -> pl.DataFrame:
    """Return the rows of RANKS that an evaluation made of the test split by the last phase."""
    ranks = pl.read_parquet(open_parts(lake.kept_path("ranks", run)).files)
    return ranks.filter(pl.col("phase") == PHASE, pl.col("split") == TEST)


def ranks_of_both(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """Return a row per user, protocol and target of both, with `rank_a` and `rank_b`."""
    key = ["user_id", "protocol", "domain", "item_id"]
    a, b = (ranks.select(*key, "rank") for ranks in (a, b))
    return a.rename({"rank": "rank_a"}).join(b.rename({"rank": "rank_b"}), on=key, maintain_order="left")


def _rows(a: Lineage, b: Lineage) -> list[dict[str, object]]:
    """Return the artifacts of which both runs rest on another number of rows."""
    counts = [
        {artifact: output.rows for made in line.runs for artifact, output in made.outputs.items()} for line in (a, b)
    ]
    names = dict.fromkeys([*counts[0], *counts[1]])
    found: list[dict[str, object]] = [
        {"rows of": name, "A": counts[0].get(name), "B": counts[1].get(name)} for name in names
    ]
    return [row for row in found if row["A"] != row["B"]]


def _differences(ranks: pl.DataFrame) -> list[dict[str, object]]:
    rows = []
    for protocol in ranks["protocol"].unique(maintain_order=True):
        of_protocol = ranks.filter(pl.col("protocol") == protocol)
        tables = [_as_ranks(of_protocol, name) for name in ("rank_b", "rank_a")]
        for domain in (None, *sorted(of_protocol["domain"].unique())):
            found = paired(tables[:1], tables[1:], split=TEST, protocol=protocol, domain=domain, resamples=RESAMPLES)
            rows += [_row(protocol, domain, each) for each in found.values()]
    return rows


def _row(protocol: str, domain: str | None, it: Difference) -> dict[str, object]:
    values = {"A": it.b, "B": it.a, "B - A": it.difference, "low": it.low, "high": it.high, "users": it.users}
    return {"protocol": protocol, "domain": domain or "over all", "metric": it.metric, **values}


def _as_ranks(ranks: pl.DataFrame, name: str) -> pa.Table:
    named = {"phase": pl.lit(PHASE), "split": pl.lit(TEST), "rank": pl.col(name)}
    return ranks.select("user_id", "domain", "protocol", **named).to_arrow()


def _moved(ranks: pl.DataFrame, titles: pl.DataFrame) -> list[Moved]:
    """Return the targets, the one that lost most first; what a rank is worth is one divided by it, as in MRR."""
    gained = 1 / pl.col("rank_b") - 1 / pl.col("rank_a")
    titled = ranks.join(titles, on="item_id", how="left")
    ordered = titled.with_columns(gained=gained).sort("gained", "user_id", "domain")
    names = list(Moved.__dataclass_fields__)
    return [Moved(**row) for row in ordered.select(names).iter_rows(named=True)]
