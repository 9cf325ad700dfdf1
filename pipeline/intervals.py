"""Intervals of shares over users."""

import numpy as np

RESAMPLES = 1000


def share_interval(hits: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of sum(hits) / sum(counts), each (users,).

    It lies between percentiles over resampled users (Efron 1981).
    """
    drawn = np.random.default_rng(0).poisson(1.0, (RESAMPLES, len(hits)))
    found = (drawn @ hits) / np.maximum(drawn @ counts, 1)
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
