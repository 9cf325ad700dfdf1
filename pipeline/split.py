"""Say of each action whether it is for training, validation or test, before anything else sees the data."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from data_lake.schemas import CONTEXT, QUERIES, SEQUENCES, SPLITS, TEST, TRAIN, VALIDATION
from pipeline.config import SplitConfig
from pipeline.deal import deal
from pipeline.frames import frame_of, to_arrow

LEAST_ACTIONS = 3
"""A user with fewer actions is only trained on."""


NO_QUERIES = QUERIES.tables[""].empty_table()


class Split:
    """The split of interactions that are given part by part, and what is counted on the way.

    Leave-one-out: the last action is the test target, the one before it the validation target. By time: training is
    all before `validation_from`; a user's first action in each window is a target, its other actions there are
    context; a user without a training action is counted and left out. By queries: all interactions are for training;
    the last row of each query is its target, the rows before it are context.

    `span` are the times of the first and the last action of all parts: by time needs them.
    """

    def __init__(
        self,
        cfg: SplitConfig,
        parts: int = 1,
        queries: pa.Table = NO_QUERIES,
        span: tuple[datetime, datetime] | None = None,
    ) -> None:
        self._cfg, self._span = cfg, span
        self._queries = frame_of(queries)
        self._part_of_query = deal(self._queries["user_id"], parts)
        self._windows = _windows(cfg, span[1]) if span else None
        self._counts = Counter[str]()
        self._roles, self._domains = Counter[str](), {role: set[str]() for role in (TEST, VALIDATION, "any")}

    def sequences(self, interactions: pa.Table, part: int = 0) -> pa.Table:
        """Return one SEQUENCES row per user of a part, in the order of user_id."""
        cfg, actions = self._cfg, frame_of(interactions).sort("user_id", "position")
        actions = actions.with_columns(enough=pl.len().over("user_id") >= LEAST_ACTIONS)
        if self._windows:
            actions = actions.with_columns(split=_by_time(*self._windows))
        elif cfg.by == "queries":
            actions = _with_queries(actions, self._queries.filter(self._part_of_query == part))
        else:
            actions = actions.with_columns(split=_by_place())
        has_training = (pl.col("split") == TRAIN).any().over("user_id")
        kept = actions if cfg.by == "queries" else actions.filter(has_training)
        users = kept.group_by("user_id", maintain_order=True).agg(
            pl.col("item_id").alias("item_ids"),
            pl.col("domain").alias("domains"),
            pl.col("timestamp").alias("timestamps"),
            pl.col("split").alias("splits"),
        )
        self._count(actions, kept, users)
        return to_arrow(users, SEQUENCES)

    def figures(self) -> dict[str, Any]:
        """Return what the manifest tells of all parts; raise UserError where a split has no target."""
        roles = {name: self._roles[name] for name in SPLITS}
        if self._windows and self._span and not (roles[TRAIN] and roles[TEST]):
            (validation_from, test_from), (first, last) = self._windows, self._span
            raise UserError(
                f"[split] by = 'time' leaves {roles[TRAIN]} training actions before {validation_from:%Y-%m-%d} "
                f"and {roles[TEST]} test targets from {test_from:%Y-%m-%d} on; the actions run from {first:%Y-%m-%d} "
                f"to {last:%Y-%m-%d}. Change the instants or days in [split]."
            )
        if self._cfg.by == "leave-one-out" and not roles[TEST]:
            raise UserError(
                f"[split] by = 'leave-one-out' leaves no test target: no user has {LEAST_ACTIONS} actions. Give those "
                "of a longer time, or more users."
            )
        names = ("users", "users_left_out", "users_only_trained_on", "actions_left_out")
        found: dict[str, Any] = {name: self._counts[name] for name in names} | {"actions": roles}
        if self._windows:
            instants = pl.Series(self._windows, dtype=pl.Datetime("ms", "UTC")).dt.epoch("ms")
            found |= dict(zip(("validation_from_ms", "test_from_ms"), instants, strict=True))
        return found

    def domains_without_targets(self) -> dict[str, list[str]]:
        """Return, for test and validation, the domains of which no action is a target."""
        return {role: sorted(self._domains["any"] - self._domains[role]) for role in (TEST, VALIDATION)}

    def _count(self, actions: pl.DataFrame, kept: pl.DataFrame, users: pl.DataFrame) -> None:
        self._counts.update(
            users=len(users),
            users_left_out=actions["user_id"].n_unique() - len(users),
            users_only_trained_on=kept.filter(~pl.col("enough"))["user_id"].n_unique(),
            actions_left_out=len(actions) - len(kept),
        )
        self._roles.update(dict(kept["split"].value_counts().iter_rows()))
        for role, domain in kept.select("split", "domain").unique().iter_rows():
            for name in {role, "any"} & self._domains.keys():
                self._domains[name].add(domain)


def _by_place() -> pl.Expr:
    from_end = pl.len().over("user_id") - 1 - pl.int_range(pl.len()).over("user_id")
    return (
        pl.when(pl.col("enough") & (from_end == 0)).then(pl.lit(TEST))
        .when(pl.col("enough") & (from_end == 1)).then(pl.lit(VALIDATION))
        .otherwise(pl.lit(TRAIN))
    )  # fmt: skip


def _by_time(validation_from: datetime, test_from: datetime) -> pl.Expr:
    time = pl.col("timestamp")
    window = pl.when(time < validation_from).then(0).when(time < test_from).then(1).otherwise(2)
    first = pl.int_range(pl.len()).over("user_id", window) == 0
    return (
        pl.when(window == 0).then(pl.lit(TRAIN))
        .when(~(pl.col("enough") & first)).then(pl.lit(CONTEXT))
        .when(window == 1).then(pl.lit(VALIDATION))
        .otherwise(pl.lit(TEST))
    )  # fmt: skip


def _with_queries(actions: pl.DataFrame, queries: pl.DataFrame) -> pl.DataFrame:
    """Return the actions, all for training, and those of the queries, of whom each user's last is the target."""
    is_target = pl.col("position") == pl.col("position").max().over("user_id")
    role = pl.when(is_target).then("split").otherwise(pl.lit(CONTEXT))
    queries = queries.with_columns(split=role, enough=pl.lit(True))
    actions = actions.with_columns(split=pl.lit(TRAIN), enough=pl.lit(False))
    return pl.concat([actions, queries.select(actions.columns)]).sort("user_id", "position")


def _windows(cfg: SplitConfig, last: datetime) -> tuple[datetime, datetime]:
    """Return the starts of the validation and of the test window."""
    if cfg.validation_from is not None and cfg.test_from is not None:
        return cfg.validation_from, cfg.test_from
    end = last.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    test_from = end - timedelta(days=cfg.test_days)
    return test_from - timedelta(days=cfg.validation_days), test_from
