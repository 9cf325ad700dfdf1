"""K-means over many small sets of points at once.

Letters: G sets of n points each, k centres a set, d numbers a point. Points have length one. A set's result does not
depend on the other sets, so a user's representatives stay when other users come and go.
"""

import numpy as np

TIE = 1e-5
"""Numbers as near as this are equal: the points of a pair are equally near, whatever a processor rounds."""


def spread_starts(points: np.ndarray, k: int) -> np.ndarray:
    """Return (G, k, d): each set's last point, then again and again the point that is farthest from those chosen."""
    sets = np.arange(len(points))
    chosen = np.full(len(points), points.shape[1] - 1)
    starts = [points[sets, chosen]]
    nearest = np.full(points.shape[:2], -np.inf, dtype=np.float32)
    for _ in range(k - 1):
        to_last = np.einsum("gnd,gd->gn", points, starts[-1])  # cosine
        nearest = np.maximum(nearest, to_last)
        chosen = first_least(nearest)
        starts.append(points[sets, chosen])
    return np.stack(starts, axis=1)


def kmeans(points: np.ndarray, centres: np.ndarray, rounds: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Improve the centres (G, k, d) of points (G, n, d) by Lloyd's rounds.

    Returns the centres and the index of each point's centre (G, n). A centre that loses its points stays where it is.
    """
    group = nearest_centre(points, centres)
    for _ in range(rounds):
        member = group[:, None, :] == np.arange(centres.shape[1])[None, :, None]  # (G, k, n)
        sizes = member.sum(axis=2, keepdims=True)
        means = (member.astype(np.float32) @ points) / np.maximum(sizes, 1)
        centres = np.where(sizes > 0, means, centres).astype(np.float32)
        before, group = group, nearest_centre(points, centres)
        if np.array_equal(before, group):
            break
    return centres, group


def nearest_centre(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return (G, n): the index of the centre nearest each point; the first of two that are equally near."""
    closeness = points @ centres.swapaxes(1, 2)
    return first_least(0.5 * (centres**2).sum(axis=2)[:, None, :] - closeness)


def nearest_points(points: np.ndarray, centres: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return (G, n) bool: the point nearest each centre among the centre's own points, at most one a centre.

    Of equally near points it is the first.
    """
    member = group[:, None, :] == np.arange(centres.shape[1])[None, :, None]  # (G, k, n)
    distance = 1 + (centres**2).sum(axis=2)[:, :, None] - 2 * centres @ points.swapaxes(1, 2)
    best = first_least(np.where(member, distance, np.inf))  # (G, k)
    chosen = np.zeros(group.shape, dtype=bool)
    sets, used = np.nonzero(member.any(axis=2))
    chosen[sets, best[sets, used]] = True
    return chosen


def first_least(numbers: np.ndarray) -> np.ndarray:
    """Return the index along the last axis of the first number that is at most TIE above the least."""
    return (numbers <= numbers.min(axis=-1, keepdims=True) + TIE).argmax(axis=-1)
