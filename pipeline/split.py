"""Say of each action whether it is for training, validation or test, before anything else sees the data."""

from datetime import timedelta
from typing import Any

import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from data_lake.schemas import CONTEXT, SEQUENCES, SPLITS, TEST, TRAIN, VALIDATION
from pipeline.config import SplitConfig
from pipeline.frames import to_arrow

LEAST_ACTIONS = 3
"""A user with fewer actions is only trained on."""


def split(interactions: pa.Table, cfg: SplitConfig) -> tuple[pa.Table, dict[str, Any]]:
    """Return one SEQUENCES row per user, in the order of user_id, and the figures for the manifest.

    Leave-one-out: the last action is the test target, the one before it the validation target. By time: training is
    all before `validation_from`; a user's first action in each window is a target, its other actions there are
    context; a user without a training action is counted and left out.
    """
    actions = pl.from_arrow(interactions)
    assert isinstance(actions, pl.DataFrame)
    actions = actions.sort("user_id", "position")
    enough = pl.len().over("user_id") >= LEAST_ACTIONS
    windows: dict[str, int] = {}
    if cfg.by == "leave-one-out":
        from_end = pl.len().over("user_id") - 1 - pl.int_range(pl.len()).over("user_id")
        role = (
            pl.when(enough & (from_end == 0)).then(pl.lit(TEST))
            .when(enough & (from_end == 1)).then(pl.lit(VALIDATION))
            .otherwise(pl.lit(TRAIN))
        )  # fmt: skip
    else:
        validation_from, test_from = _instants(actions["timestamp"], cfg)
        instants = pl.Series([validation_from, test_from], dtype=actions["timestamp"].dtype)
        windows = dict(zip(("validation_from_ms", "test_from_ms"), instants.dt.epoch("ms"), strict=True))
        time = pl.col("timestamp")
        window = pl.when(time < validation_from).then(0).when(time < test_from).then(1).otherwise(2)
        actions = actions.with_columns(window.alias("window"))
        first = pl.int_range(pl.len()).over("user_id", "window") == 0
        role = (
            pl.when(pl.col("window") == 0).then(pl.lit(TRAIN))
            .when(~(enough & first)).then(pl.lit(CONTEXT))
            .when(pl.col("window") == 1).then(pl.lit(VALIDATION))
            .otherwise(pl.lit(TEST))
        )  # fmt: skip
    actions = actions.with_columns(role.alias("split"), enough.alias("enough"))
    kept = actions.filter((pl.col("split") == TRAIN).any().over("user_id"))
    counts = dict(kept["split"].value_counts().iter_rows())
    if cfg.by == "time" and not (counts.get(TRAIN) and counts.get(TEST)):
        first_day, last_day = actions["timestamp"].dt.strftime("%Y-%m-%d").sort()[[0, -1]]
        raise UserError(
            f"[split] by = 'time' leaves {counts.get(TRAIN, 0)} training actions before {validation_from:%Y-%m-%d} "
            f"and {counts.get(TEST, 0)} test targets from {test_from:%Y-%m-%d} on; the actions run from {first_day} "
            f"to {last_day}. Change the instants or days in [split]."
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


def _instants(times: pl.Series, cfg: SplitConfig) -> tuple[Any, Any]:
    """Return the starts of the validation and of the test window."""
    if cfg.validation_from is not None:
        return cfg.validation_from, cfg.test_from
    end = times.dt.truncate("1d").max() + timedelta(days=1)  # type: ignore[operator]
    test_from = end - timedelta(days=cfg.test_days)
    return test_from - timedelta(days=cfg.validation_days), test_from
