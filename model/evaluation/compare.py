"""Compare runs: the paired difference between two, and the spread over seeds."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_lake.errors import UserError
from data_lake.schemas import METRICS
from model.evaluation.metrics import METRIC_NAMES, Floats, compute_metrics, interval, resampled_sums

SIGNS_AT_ONCE = 4096


@dataclass(frozen=True)
class Difference:
    """Mean of one metric in both runs and what sets them apart, over the same users."""

    metric: str
    users: int
    a: float
    b: float
    difference: float  # a - b
    low: float  # 95 % percentile interval of the difference
    high: float
    p: float  # two-sided


def paired(
    a: Sequence[pa.Table],
    b: Sequence[pa.Table],
    *,
    split: str = "test",
    protocol: str = "full",
    phases: tuple[str, str] = ("finetune", "finetune"),
    domain: str | None = None,
    users: Collection[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two runs by metric; `a` and `b` hold the `ranks` of each training seed.

    Each user is averaged over the seeds first. The interval resamples users; the p-value is the share of random sign
    flips of the users' differences that give at least the mean seen (Fisher's randomisation test, as Smucker, Allan and
    Carterette, CIKM 2007, advise). `phases` are those of `a` and of `b`; `domain` and `users` (ids) narrow the targets.
    """
    ids_a, values_a = _by_user(a, split, protocol, phases[0], domain, users)
    ids_b, values_b = _by_user(b, split, protocol, phases[1], domain, users)
    if not len(ids_a) or not np.array_equal(ids_a, ids_b):
        raise UserError(
            f"ranks: {len(ids_a)} and {len(ids_b)} users to compare ({split}, {protocol}); a paired test needs the "
            "same users on both sides, at least one. Evaluate both runs on one split of one dataset."
        )
    apart = values_a - values_b  # (U, 5)
    mean = apart.mean(axis=0)
    low, high = interval(resampled_sums(apart, [np.arange(len(apart))], resamples, seed)[0], mean)
    p = _sign_flip_p(apart, resamples, seed)
    means = values_a.mean(axis=0), values_b.mean(axis=0)
    return {
        metric: Difference(metric, len(apart), *(float(figures[at]) for figures in (*means, mean, low, high, p)))
        for at, metric in enumerate(METRIC_NAMES)
    }


def over_seeds(metrics: Sequence[pa.Table]) -> pa.Table:
    """Return mean, standard deviation (n - 1; null of one) and number of the values of each key of METRICS."""
    table = pa.concat_tables(metrics)
    spread = pc.VarianceOptions(ddof=1)
    return (
        table.group_by(list(METRICS.key[""]), use_threads=False)
        .aggregate([("value", "mean"), ("value", "stddev", spread), ("value", "count")])
        .rename_columns([*METRICS.key[""], "mean", "std", "seeds"])
    )


def _by_user(
    tables: Sequence[pa.Table],
    split: str,
    protocol: str,
    phase: str,
    domain: str | None,
    users: Collection[str] | None,
) -> tuple[NDArray[np.str_], Floats]:
    """Return the user ids in order and, per user, the mean of each metric over the tables: (U,), (U, 5)."""
    selected = (pc.field("split") == split) & (pc.field("protocol") == protocol) & (pc.field("phase") == phase)
    if domain is not None:
        selected &= pc.field("domain") == domain
    if users is not None:
        selected &= pc.field("user_id").isin(pa.array(list(users), pa.string()))
    ranks = pa.concat_tables(tables).filter(selected)
    ids, user = np.unique(np.array(ranks["user_id"].to_pylist(), dtype=str), return_inverse=True)
    figures = compute_metrics(ranks["rank"].to_numpy())
    sums = np.stack([np.bincount(user, figure, minlength=len(ids)) for figure in figures.T], axis=1)
    return ids, sums / np.bincount(user, minlength=len(ids))[:, None]


def _sign_flip_p(apart: Floats, resamples: int, seed: int) -> Floats:
    """Two-sided p-value per column of `apart` (U, C) under random signs of the rows."""
    rng = np.random.default_rng(seed)
    flipped = np.zeros((apart.shape[1], resamples))
    for start in range(0, len(apart), SIGNS_AT_ONCE):
        some = apart[start : start + SIGNS_AT_ONCE]
        flipped += some.T @ (2.0 * rng.integers(0, 2, (len(some), resamples)) - 1.0)
    seen = np.abs(apart.sum(axis=0))[:, None]
    extreme: Floats = (np.abs(flipped) >= seen - 1e-9).sum(axis=1)
    return (1 + extreme) / (1 + resamples)
