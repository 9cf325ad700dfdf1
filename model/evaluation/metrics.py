"""HR, NDCG and MRR of ranks, with bootstrap intervals over users.

One target per user: HR@k is 1 where the rank is at most k; NDCG@k is 1 / log2(1 + rank) there (the ideal gain is 1,
Järvelin and Kekäläinen 2002); MRR is 1 / rank, without a cutoff.

Letters used in this file: T targets, C values, R resamples.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (5, 10)
USERS_AT_ONCE = 4096

Ranks = NDArray[np.integer]
Floats = NDArray[np.float64]


def hit_rate(ranks: Ranks, k: int) -> Floats:
    """Return HR@k of each rank (T,): 1 where the target is among the first k.

    >>> hit_rate(np.array([1, 3, 12]), 10).tolist()
    [1.0, 1.0, 0.0]
    """
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: Ranks, k: int) -> Floats:
    """Return NDCG@k of each rank (T,): 1 / log2(1 + rank) where the target is among the first k.

    >>> ndcg(np.array([1, 3, 12]), 10).tolist()  # 1 / log2(2), 1 / log2(4), none
    [1.0, 0.5, 0.0]
    """
    gain: Floats = 1.0 / np.log2(1.0 + ranks)
    return gain * (ranks <= k)


def reciprocal_rank(ranks: Ranks) -> Floats:
    """Return 1 / rank of each rank (T,), without a cutoff; its mean is MRR.

    >>> reciprocal_rank(np.array([1, 3, 12])).round(4).tolist()
    [1.0, 0.3333, 0.0833]
    """
    reciprocal: Floats = 1.0 / ranks
    return reciprocal


def compute_metrics(ranks: Ranks) -> Floats:
    """Return (T, 5): one column per name in METRIC_NAMES.

    >>> dict(zip(METRIC_NAMES, compute_metrics(np.array([1, 3, 12])).mean(axis=0).round(4).tolist()))
    {'HR@5': 0.6667, 'HR@10': 0.6667, 'NDCG@5': 0.5, 'NDCG@10': 0.5, 'MRR': 0.4722}
    """
    return np.stack([metric(ranks) for metric in METRICS.values()], axis=1)


METRICS: dict[str, Callable[[Ranks], Floats]] = {
    **{f"HR@{k}": partial(hit_rate, k=k) for k in CUTOFFS},
    **{f"NDCG@{k}": partial(ndcg, k=k) for k in CUTOFFS},
    "MRR": reciprocal_rank,
}
"""The metrics by name; a new one is a function and a line here."""

METRIC_NAMES = tuple(METRICS)


def resampled_sums(numbers: Floats, parts: Sequence[NDArray[np.int64]], resamples: int, seed: int) -> Floats:
    """Return (parts, C + 1, R): how often users of each part were drawn, then the sums of their `numbers` (T, C).

    A resample draws each user a Poisson(1) number of times, the same in every part: the bootstrap (Efron 1979) in the
    form that needs one pass over the users (Chamandy et al., "Estimating uncertainty for massive data streams", 2012).
    `parts` are rising row numbers.
    """
    rng = np.random.default_rng(seed)
    ones_first = np.concatenate([np.ones((len(numbers), 1)), numbers], axis=1)  # (T, C + 1)
    sums = np.zeros((len(parts), ones_first.shape[1], resamples))
    for start in range(0, len(numbers), USERS_AT_ONCE):
        stop = min(start + USERS_AT_ONCE, len(numbers))
        drawn = rng.poisson(1.0, (stop - start, resamples)).astype(np.float64)  # (t, R)
        for part, rows in enumerate(parts):
            here = rows[slice(*np.searchsorted(rows, [start, stop]))]
            if len(here):
                sums[part] += ones_first[here].T @ drawn[here - start]
    return sums


def interval(sums: Floats, mean: Floats) -> tuple[Floats, Floats]:
    """Return the 95 % percentile interval (Efron 1981) of the mean per value; sums: (C + 1, R), mean: (C,).

    A resample without a user says nothing and counts as the mean. Rounding never puts the mean outside.

    >>> low, high = interval(np.array([[2.0, 2.0, 0.0], [1.0, 2.0, 0.0]]), np.array([0.75]))  # means .5, 1 and .75
    >>> low.round(4).tolist(), high.round(4).tolist()
    ([0.5125], [0.9875])
    """
    users = sums[:1]
    means = np.where(users > 0, sums[1:] / np.maximum(users, 1.0), mean[:, None])  # (C, R)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    return np.minimum(low, mean), np.maximum(high, mean)
