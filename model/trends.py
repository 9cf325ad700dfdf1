"""What is chosen lately: an item's training actions before a moment, the older the less they count.

How often an item was chosen in the last weeks says far more about the next choice than how often it ever was (Ji et
al., SIGIR 2020, "A Re-visit of the Popularity Baseline in Recommender Systems"). A prediction sees only actions before
a moment that is no later than the last item that it reads: neither its own target nor anything that comes after.

Letters used in this file: M moments, K items, H half-lives, P predictions, E actions.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_lake.schemas import SPLITS, TRAIN, VALIDATION
from model.data import DAY, POSITIONS_AT_ONCE, Ints, TrainingSet

MOMENTS = 512
"""Moments at which the counts are taken, at most; about as many training actions lie between any two."""

CELLS = 2**25
"""Moments times items, at most: a large catalogue is counted at fewer moments."""


class Trends(nn.Module):
    """What recent choices add to a score: per domain, a weighted sum of the counts of each half-life.

    Moment m is edges[m - 1], at which all earlier training actions are counted; at moment 0 there are none. The last
    one follows all of them: it is now.
    """

    edges: Tensor  # (M,) milliseconds, rising
    counts: Tensor  # (items + 1, M + 1, H) log(1 + count) in half precision

    def __init__(self, data: TrainingSet, half_lives: tuple[float, ...]) -> None:
        """half_lives: (H,) days after which an action counts half."""
        super().__init__()
        times, items = _training_actions(data)
        height = len(data.item_domain)
        edges = spread_moments(times, min(MOMENTS, CELLS // height))
        self.register_buffer("edges", torch.from_numpy(edges), persistent=False)
        self.register_buffer("counts", log_counts(times, items, edges, half_lives, height), persistent=False)
        self.weight = nn.Parameter(torch.zeros(len(data.domains), len(half_lives)))
        first_target = np.min(data.times[data.splits == SPLITS.index(VALIDATION)], initial=np.iinfo(np.int64).max)
        self.by_time = bool(len(times) and times[-1] < first_target)
        """Whether training ends before the first target, so that each target is asked for when all of it is known."""

    def moments(self, times: Tensor) -> Tensor:
        """Return the latest moment that is no later than each time, in the same shape."""
        return torch.bucketize(times, self.edges, right=True)

    def forward(self, items: Tensor, domain: int) -> Tensor:
        """items: (K,) numbers of one domain. Returns (M + 1, K), what each moment adds to the score of each item."""
        return (self.counts[items].float() * self.weight[domain]).sum(-1).T

    def at(self, items: Tensor, moments: Tensor, domain: int) -> Tensor:
        """items, moments: (P,). Returns (P,), what is added to the score of each item at its moment."""
        return (self.counts[items, moments].float() * self.weight[domain]).sum(-1)


def spread_moments(times: Ints, most: int) -> Ints:
    """times: (E,) rising. Returns (M,) of them, about equally many actions apart, and one after all."""
    if not len(times):
        return times
    step = -(-len(times) // max(1, most))
    return np.append(np.unique(times[::step]), times[-1] + 1)


def log_counts(times: Ints, items: Ints, edges: Ints, half_lives: tuple[float, ...], height: int) -> Tensor:
    """Return (height, M + 1, H): per item log(1 + sum of 2 ** -(age / half-life)) over the actions before each moment.

    times, items: (E,) by rising time. edges: (M,). An action at the time of a moment is not before it.
    """
    lives = torch.tensor(half_lives, dtype=torch.float64) * DAY  # (H,)
    counts = torch.zeros((height, len(edges) + 1, len(half_lives)), dtype=torch.float16)
    held = torch.zeros((height, len(half_lives)), dtype=torch.float64)
    done, before = 0, 0
    for number, edge in enumerate(edges.tolist(), start=1):
        end = int(np.searchsorted(times, edge))
        held *= torch.exp2(-(edge - before) / lives)
        age = torch.from_numpy(edge - times[done:end]).double()[:, None]  # (new, 1)
        held.index_add_(0, torch.from_numpy(items[done:end]), torch.exp2(-age / lives))
        counts[:, number] = held.log1p()
        done, before = end, edge
    return counts


def _training_actions(data: TrainingSet) -> tuple[Ints, NDArray[np.int64]]:
    """Return times and items of all real training actions, (E,) by rising time."""
    times, items = [], []
    for start in range(0, len(data.items), POSITIONS_AT_ONCE):
        part = slice(start, start + POSITIONS_AT_ONCE)
        taken = (data.splits[part] == SPLITS.index(TRAIN)) & ~data.synthetic[part]
        times.append(data.times[part][taken])
        items.append(data.items[part][taken].astype(np.int64))
    if not times:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.argsort(every := np.concatenate(times), kind="stable")
    return every[order], np.concatenate(items)[order]
