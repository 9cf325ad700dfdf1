"""What the last phase reached on the test targets, beside the run before and one without a generator."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from data_lake.lake import Lake, Manifest
from data_lake.schemas import ALL, TEST
from data_lake.tables import open_parts
from flows.compare import PHASE, ranks_of_both, ranks_of_test
from flows.lineage import Lineage, changes_between, lineage
from flows.protocols import notes_on_protocols
from flows.report.tables import Tables
from model.data.training_set import TrainingSet
from model.evaluation.candidates import find_targets
from model.evaluation.groups import groups
from model.evaluation.metrics import METRIC_NAMES, Floats, compute_metrics, interval, resampled_sums

SHOWN = ("HR@10", "NDCG@10")
RESAMPLES = 1000
OVERALL = "over all"


@dataclass(frozen=True)
class Measured:
    """A mean over users with its 95 % interval."""

    value: float
    low: float
    high: float
    users: int


@dataclass(frozen=True)
class Row:
    """One metric of the targets of a domain and group: `runs` has a value for each run that measured it, else None."""

    protocol: str
    domain: str
    group: str
    metric: str
    runs: list[Measured | None]


Key = tuple[str, str, str, str]
"""Protocol, domain, group and metric."""


@dataclass(frozen=True)
class Paired:
    """The mean difference to another run, with its 95 % interval, over the users with the same target in both."""

    value: float
    low: float
    high: float
    users: int


@dataclass(frozen=True)
class Other:
    """A run to compare with. `changed` is what the runs that it rests on have otherwise than the present ones."""

    name: str
    started: str
    generator: str | None
    changed: list[str]
    paired: dict[Key, Paired]


@dataclass(frozen=True)
class Metrics:
    """Test metrics of the last phase. In each row the present run stands first, then `others` in order."""

    protocols: list[str]
    domains: list[str]
    candidates: dict[tuple[str, str], float]
    """Mean number of candidates by protocol and domain, the target included."""
    others: list[Other]
    rows: list[Row]

    @property
    def notes(self) -> list[str]:
        """What the protocols' names do not tell."""
        return notes_on_protocols({key: mean for key, mean in self.candidates.items() if key[1] != OVERALL})

    def rows_of(self, protocol: str, domain: str | None = None, group: str | None = None) -> list[Row]:
        """Return the rows of a protocol, of one domain or group where they are named."""
        return [
            row for row in self.rows
            if row.protocol == protocol and domain in (None, row.domain) and group in (None, row.group)
        ]  # fmt: skip


def collect_metrics(tables: Tables) -> Metrics | None:
    """Return the metrics; None before the evaluation."""
    lake, run, metrics = tables.lake, tables.manifest("metrics"), tables.scan("metrics")
    if run is None or metrics is None:
        return None
    others = _others(lake, run)
    values, *more = _values(metrics), *(_values(_kept_metrics(lake, other)) for other in others.values())
    protocols, domains = (list(dict.fromkeys(key[at] for key in values)) for at in (0, 1))
    here = lineage(lake, [run])
    ranks = ranks_of_test(lake, run)
    members = _members(lake, here, ranks)

    def other_run(name: str, other: Manifest) -> Other:
        there = lineage(lake, [other])
        differences = paired_by_group(ranks_of_test(lake, other), ranks, members)
        return Other(name, other.started, there.generator, changes_between(there, here), differences)

    return Metrics(
        protocols,
        domains,
        {key[:2]: candidates for key, (_, candidates) in values.items() if key[2] == ALL},
        [other_run(name, other) for name, other in others.items()],
        [Row(*key, runs=[each[key][0] if key in each else None for each in (values, *more)]) for key in values],
    )


def _values(metrics: pl.LazyFrame) -> dict[Key, tuple[Measured, float]]:
    """Return of the test rows the value and the candidates by protocol, domain, group and metric."""
    tested = metrics.filter(pl.col("split") == TEST, pl.col("phase") == PHASE, pl.col("metric").is_in(SHOWN))
    return {
        (row["protocol"], row["domain"] or OVERALL, row["group"], row["metric"]): (
            Measured(row["value"], row["low"], row["high"], row["users"]), row["candidates"],
        )
        for row in tested.collect().to_dicts()
    }  # fmt: skip


def _others(lake: Lake, run: Manifest) -> dict[str, Manifest]:
    """Return the last other run, and the last one without a generator, by the name under which each is shown."""
    kept = [
        each for each in lake.kept_runs("metrics")
        if each.fingerprint != run.fingerprint and each.version == run.version and _is_here(lake, each)
    ]  # fmt: skip
    without = next((each for each in kept if lineage(lake, [each]).generator == "none"), None)
    found = {"before": kept[0]} if kept else {}
    return found | ({"none": without} if without and without is not kept[0] else {})


def _is_here(lake: Lake, run: Manifest) -> bool:
    """Say whether this machine has the files of a kept run; of one that lies in an object store it may not."""
    return all(
        (lake.kept_path(artifact, run) / name).exists()
        for artifact, output in run.outputs.items()
        for name in output.files
    )


def paired_by_group(there: pl.DataFrame, here: pl.DataFrame, members: pl.DataFrame) -> dict[Key, Paired]:
    """Return what the ranks `here` have more than those of another run, over the users of each domain and group.

    `members` are those of `_members`. All protocols have the same targets, so that users are drawn once for all.
    """
    both = ranks_of_both(there, here).sort("protocol", "user_id")
    if both.is_empty():
        return {}
    protocols = both["protocol"].unique().sort()
    users = both.filter(pl.col("protocol") == protocols[0]).join(members, on="user_id", maintain_order="left")
    gained = _shown(both["rank_b"]) - _shown(both["rank_a"])
    apart = np.concatenate(gained.reshape(len(protocols), len(users), -1), axis=1)  # (users, protocols * metrics)
    in_domain = {OVERALL: pl.lit(True)} | {name: pl.col("domain") == name for name in users["domain"].unique()}
    parts = {
        (domain, group): np.flatnonzero(users.select(is_in & pl.col(group)).to_series())
        for domain, is_in in in_domain.items()
        for group in members.columns[1:]
    }
    sums = resampled_sums(apart, list(parts.values()), RESAMPLES, 0)
    names = list(product(protocols, SHOWN))
    found = {}
    for ((domain, group), part), drawn in zip(parts.items(), sums, strict=True):
        if len(part):
            mean = apart[part].mean(axis=0)
            low, high = interval(drawn, mean)
            for at, (protocol, metric) in enumerate(names):
                found[protocol, domain, group, metric] = Paired(mean[at], low[at], high[at], len(part))
    return found


def _shown(ranks: pl.Series) -> Floats:
    return compute_metrics(ranks.to_numpy())[:, [METRIC_NAMES.index(name) for name in SHOWN]]


def _members(lake: Lake, run: Lineage, ranks: pl.DataFrame) -> pl.DataFrame:
    """Return `user_id`, and per group whether the user's test target is in it.

    There is only the group of all where the lake keeps no training set of the run that can be read.
    """
    assembled = run.stage("assemble")
    try:
        data = TrainingSet.load(lake.kept_path("training_set", assembled), stream=True) if assembled else None
    except UserError:  # it is gone, or of an earlier version
        data = None
    if data is None:
        return ranks.select("user_id").unique().with_columns(pl.lit(True).alias(ALL))
    targets = find_targets(data, TEST)
    users = pl.Series("user_id", data.user_ids.take(pa.array(targets.users)))
    return pl.DataFrame([users, *(pl.Series(group, mask) for group, mask in groups(data, targets).items())])


def _kept_metrics(lake: Lake, run: Manifest) -> pl.LazyFrame:
    return pl.scan_parquet(open_parts(lake.kept_path("metrics", run)).files)
