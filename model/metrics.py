"""HR, NDCG and MRR of ranks, with bootstrap intervals over users.

One target per user: HR@k is 1 where the rank is at most k; NDCG@k is 1 / log2(1 + rank) there (the ideal gain is 1,
Järvelin and Kekäläinen 2002); MRR is 1 / rank, never cut. Letters used in this file: T targets, C values, R resamples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (5, 10)
METRIC_NAMES = (*(f"HR@{k}" for k in CUTOFFS), *(f"NDCG@{k}" for k in CUTOFFS), "MRR")

USERS_AT_ONCE = 4096

Floats = NDArray[np.float64]


def values(ranks: NDArray[np.integer]) -> Floats:
    """Return (T, 5): one column per name in METRIC_NAMES."""
    reciprocal, gain = 1.0 / ranks, 1.0 / np.log2(1.0 + ranks)
    hits = [ranks <= k for k in CUTOFFS]
    return np.stack([*(hit.astype(np.float64) for hit in hits), *(gain * hit for hit in hits), reciprocal], axis=1)


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
    """
    users = sums[:1]
    means = np.where(users > 0, sums[1:] / np.maximum(users, 1.0), mean[:, None])  # (C, R)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    return np.minimum(low, mean), np.maximum(high, mean)
