"""What the data looks like: sizes, actions over time, how unequal users' domains are, what was refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from data_lake.schemas import TRAIN
from flows.report.tables import Tables

BINS = 20
"""Bins of the imbalance; one more counts the users whose actions are all of one domain."""
LONGEST = 160
"""Characters that are shown of a refused row."""


@dataclass(frozen=True)
class DomainCounts:
    """Sizes of one domain, or of all."""

    domain: str
    users: int
    items: int
    titled: int
    actions: int


@dataclass(frozen=True)
class Timeline:
    """Actions per `unit` ("day", "week" or "month") and domain; `counts` has a list per domain, as long as `starts`."""

    unit: str
    starts: list[date]
    counts: dict[str, list[int]]


@dataclass(frozen=True)
class Refused:
    """Input rows that were refused for one reason, and the first of them."""

    kind: str
    reason: str
    rows: int
    example: str


@dataclass(frozen=True)
class Imbalance:
    """Users by the share of their largest domain in their training actions: BINS + 1 counts each."""

    before: list[int]
    after: list[int]
    """With inserted items; empty where nothing was enriched."""


@dataclass(frozen=True)
class Data:
    """What the data looks like. `timeline` is None where the data tells no times."""

    total: DomainCounts
    domains: list[DomainCounts]
    first: date
    last: date
    timeline: Timeline | None
    splits: dict[str, int]
    imbalance: Imbalance | None
    refused: list[Refused]


def collect_data(tables: Tables, domain_order: Sequence[str]) -> Data | None:
    """Return what the data looks like; None before it was ingested."""
    interactions, items, rejects = (tables.scan(name) for name in ("interactions", "items", "rejects"))
    if interactions is None or items is None:
        return None
    first, last = interactions.select(pl.min("timestamp").alias("first"), pl.max("timestamp").alias("last")).collect()
    first, last = first[0].date(), last[0].date()
    total, domains = _counts(interactions, items, domain_order)
    sequences = tables.scan("sequences")
    return Data(
        total, domains, first, last,
        None if first == last else timeline(interactions, [each.domain for each in domains], (last - first).days),
        {} if sequences is None else _splits(sequences),
        None if sequences is None else _imbalances(sequences, tables.scan("augmented_sequences")),
        [] if rejects is None else _refused(rejects),
    )  # fmt: skip


def _counts(
    interactions: pl.LazyFrame, items: pl.LazyFrame, order: Sequence[str]
) -> tuple[DomainCounts, list[DomainCounts]]:
    acted = interactions.group_by("domain").agg(users=pl.n_unique("user_id"), actions=pl.len())
    known = items.group_by("domain").agg(items=pl.len(), titled=pl.col("title").is_not_null().sum())
    both = known.join(acted, on="domain", how="left").with_columns(pl.col("users", "actions").fill_null(0))
    place = pl.col("domain").replace_strict(dict(zip(order, range(len(order)), strict=True)), default=len(order))
    rows = both.sort(place, "domain").select("domain", "users", "items", "titled", "actions").collect()
    domains = [DomainCounts(**row) for row in rows.to_dicts()]
    users = interactions.select(pl.n_unique("user_id")).collect(engine="streaming").item()
    sums = (sum(getattr(each, name) for each in domains) for name in ("items", "titled", "actions"))
    return DomainCounts("all domains", users, *sums), domains


def timeline(interactions: pl.LazyFrame, domains: Sequence[str], days: int) -> Timeline:
    """Return the actions per day, week or month: what suits a span of so many days."""
    unit, every = ("day", "1d") if days <= 92 else ("week", "1w") if days <= 730 else ("month", "1mo")
    start = pl.col("timestamp").dt.truncate(every).dt.date().alias("start")
    counted = interactions.group_by(start, "domain").len().collect(engine="streaming")
    first, last = counted.select(pl.min("start").alias("first"), pl.max("start").alias("last")).row(0)
    starts = pl.DataFrame({"start": pl.date_range(first, last, interval=every, eager=True)})
    counts = {}
    for domain in domains:
        here = starts.join(counted.filter(pl.col("domain") == domain), on="start", how="left", maintain_order="left")
        counts[domain] = here["len"].fill_null(0).to_list()
    return Timeline(unit, starts["start"].to_list(), counts)


def _splits(sequences: pl.LazyFrame) -> dict[str, int]:
    roles = sequences.select(pl.col("splits").explode()).group_by("splits").len().sort("len", descending=True)
    return {role: count for role, count in roles.collect(engine="streaming").iter_rows() if role is not None}


def _imbalances(sequences: pl.LazyFrame, augmented: pl.LazyFrame | None) -> Imbalance:
    return Imbalance(imbalance_bins(sequences), [] if augmented is None else imbalance_bins(augmented))


def imbalance_bins(sequences: pl.LazyFrame) -> list[int]:
    """Count users by the share of their largest domain in their training actions: BINS bins, then those at 1."""
    lists = sequences.select("user_id", "domains", "splits").filter(pl.col("splits").list.len() > 0)
    trained = lists.explode("domains", "splits").filter(pl.col("splits") == TRAIN)
    sizes = trained.group_by("user_id", "domains").len().group_by("user_id").agg(pl.max("len"), total=pl.sum("len"))
    bins = sizes.select(bin=(pl.col("len") * BINS // pl.col("total")).cast(pl.Int64)).group_by("bin").len()
    counts = dict(bins.collect(engine="streaming").iter_rows())
    return [counts.get(each, 0) for each in range(BINS + 1)]


def _refused(rejects: pl.LazyFrame) -> list[Refused]:
    first = pl.col("row").first().str.slice(0, LONGEST)
    counted = rejects.group_by("kind", "reason", maintain_order=True).agg(rows=pl.len(), example=first)
    rows = counted.sort("rows", "kind", "reason", descending=[True, False, False])
    return [Refused(**row) for row in rows.collect().to_dicts()]
