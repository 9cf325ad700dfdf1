"""Say of each action whether it is for training, validation or test, before anything else sees the data."""

from datetime import timedelta
from typing import Any

import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from data_lake.schemas import CONTEXT, QUERIES, SEQUENCES, SPLITS, TEST, TRAIN, VALIDATION
from pipeline.config import SplitConfig
from pipeline.frames import frame_of, to_arrow

LEAST_ACTIONS = 3
"""A user with fewer actions is only trained on."""


NO_QUERIES = QUERIES.tables[""].empty_table()


def split(interactions: pa.Table, cfg: SplitConfig, queries: pa.Table = NO_QUERIES) -> tuple[pa.Table, dict[str, Any]]:
    """Return one SEQUENCES row per user, in the order of user_id, and the figures for the manifest.

    Leave-one-out: the last action is the test target, the one before it the validation target. By time: training is
    all before `validation_from`; a user's first action in each window is a target, its other actions there are
    context; a user without a training action is counted and left out. By queries: all interactions are for training;
    the last row of each query is its target, the rows before it are context.
    """
    actions = frame_of(interactions).sort("user_id", "position")
    actions = actions.with_columns(enough=pl.len().over("user_id") >= LEAST_ACTIONS)
    windows: dict[str, int] = {}
    if cfg.by == "leave-one-out":
        actions = actions.with_columns(split=_by_place())
    elif cfg.by == "queries":
        actions = _with_queries(actions, frame_of(queries))
    else:
        validation_from, test_from = _instants(actions["timestamp"], cfg)
        instants = pl.Series([validation_from, test_from], dtype=actions["timestamp"].dtype)
        windows = dict(zip(("validation_from_ms", "test_from_ms"), instants.dt.epoch("ms"), strict=True))
        actions = actions.with_columns(split=_by_time(validation_from, test_from))
    has_training = (pl.col("split") == TRAIN).any().over("user_id")
    kept = actions if cfg.by == "queries" else actions.filter(has_training)
    counts = dict(kept["split"].value_counts().iter_rows())
    if cfg.by == "time" and not (counts.get(TRAIN) and counts.get(TEST)):
        first_day, last_day = actions["timestamp"].dt.strftime("%Y-%m-%d").sort()[[0, -1]]
        raise UserError(
            f"[split] by = 'time' leaves {counts.get(TRAIN, 0)} training actions before {validation_from:%Y-%m-%d} "
            f"and {counts.get(TEST, 0)} test targets from {test_from:%Y-%m-%d} on; the actions run from {first_day} "
            f"to {last_day}. Change the instants or days in [split]."
        )
    if cfg.by == "leave-one-out" and not counts.get(TEST):
        raise UserError(
            f"[split] by = 'leave-one-out' leaves no test target: no user has {LEAST_ACTIONS} actions. Give those of "
            "a longer time, or more users."
        )
    users = kept.group_by("user_id", maintain_order=True).agg(
        pl.col("item_id").alias("item_ids"),
        pl.col("domain").alias("domains"),
        pl.col("timestamp").alias("timestamps"),
        pl.col("split").alias("splits"),
    )
    figures = {
        "users": len(users),
        "users_left_out": actions["user_id"].n_unique() - len(users),
        "users_only_trained_on": kept.filter(~pl.col("enough"))["user_id"].n_unique(),
        "actions_left_out": len(actions) - len(kept),
        "actions": {name: counts.get(name, 0) for name in SPLITS},
    }
    return to_arrow(users, SEQUENCES), figures | windows


def domains_without_targets(sequences: pa.Table) -> dict[str, list[str]]:
    """Return, for test and validation, the domains in SEQUENCES of which no action is a target."""
    actions = frame_of(sequences.select(["domains", "splits"])).explode("domains", "splits").unique()
    found = {role: actions.filter(pl.col("splits") == role)["domains"] for role in (TEST, VALIDATION)}
    return {role: sorted(set(actions["domains"]) - set(domains)) for role, domains in found.items()}


def _by_place() -> pl.Expr:
    from_end = pl.len().over("user_id") - 1 - pl.int_range(pl.len()).over("user_id")
    return (
        pl.when(pl.col("enough") & (from_end == 0)).then(pl.lit(TEST))
        .when(pl.col("enough") & (from_end == 1)).then(pl.lit(VALIDATION))
        .otherwise(pl.lit(TRAIN))
    )  # fmt: skip


def _by_time(validation_from: Any, test_from: Any) -> pl.Expr:
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


def _instants(times: pl.Series, cfg: SplitConfig) -> tuple[Any, Any]:
    """Return the starts of the validation and of the test window."""
    if cfg.validation_from is not None:
        return cfg.validation_from, cfg.test_from
    end = times.dt.truncate("1d").max() + timedelta(days=1)  # type: ignore[operator]
    test_from = end - timedelta(days=cfg.test_days)
    return test_from - timedelta(days=cfg.validation_days), test_from
