"""What the last phase reached on the test targets, beside the run before and one without a generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from data_lake.lake import Lake, Manifest
from data_lake.schemas import ALL, TEST
from data_lake.tables import open_parts
from flows.lineage import changes_between, lineage
from flows.protocols import notes_on_protocols
from flows.report.tables import Tables
from model.evaluation.compare import Difference, paired

PHASE = "finetune"
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


@dataclass(frozen=True)
class Paired:
    """The difference to another run over the users who have the same target in both."""

    protocol: str
    domain: str
    difference: Difference


@dataclass(frozen=True)
class Other:
    """A run to compare with. `changed` is what the runs that it rests on have otherwise than the present ones."""

    name: str
    started: str
    generator: str | None
    changed: list[str]
    paired: list[Paired]


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
    values, *more = _values(metrics), *(_values(_kept(lake, "metrics", other)) for other in others.values())
    protocols, domains = (list(dict.fromkeys(key[at] for key in values)) for at in (0, 1))
    here = lineage(lake, [run])

    def other_run(name: str, other: Manifest) -> Other:
        there = lineage(lake, [other])
        differences = _paired(lake, run, other, protocols, domains)
        return Other(name, other.started, there.generator, changes_between(there, here), differences)

    return Metrics(
        protocols,
        domains,
        {key[:2]: candidates for key, (_, candidates) in values.items() if key[2] == ALL},
        [other_run(name, other) for name, other in others.items()],
        [Row(*key, runs=[each[key][0] if key in each else None for each in (values, *more)]) for key in values],
    )


Key = tuple[str, str, str, str]


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


def _paired(
    lake: Lake, run: Manifest, other: Manifest, protocols: Sequence[str], domains: Sequence[str]
) -> list[Paired]:
    found = []
    for protocol in protocols:
        here, there = (_ranks(lake, each, protocol) for each in (run, other))
        both = here.join(there, on=["user_id", "domain", "item_id"], suffix="_other")
        ranks = [
            both.select("user_id", "domain", "phase", "split", "protocol", rank=name).to_arrow()
            for name in ("rank", "rank_other")
        ]
        for domain in domains:
            one = None if domain == OVERALL else domain
            if len(both) and (one is None or one in both["domain"]):
                differences = paired(
                    ranks[:1], ranks[1:], split=TEST, protocol=protocol, domain=one, resamples=RESAMPLES
                )
                found += [Paired(protocol, domain, differences[metric]) for metric in SHOWN]
    return found


def _ranks(lake: Lake, run: Manifest, protocol: str) -> pl.DataFrame:
    ranks = _kept(lake, "ranks", run)
    of_protocol = pl.col("phase") == PHASE, pl.col("split") == TEST, pl.col("protocol") == protocol
    return ranks.filter(*of_protocol).collect()


def _kept(lake: Lake, artifact: str, run: Manifest) -> pl.LazyFrame:
    return pl.scan_parquet(open_parts(lake.kept_path(artifact, run)).files)
