"""What is chosen lately: an item's training actions before a moment, the older the less they count.

How often an item was chosen in the last weeks says far more about the next choice than how often it ever was (Ji et
al., SIGIR 2020, "A Re-visit of the Popularity Baseline in Recommender Systems"). A prediction sees only actions before
a moment that is no later than the last item that it reads: neither its own target nor anything that comes after.

Letters used in this file: M moments, K items, H half-lives, P predictions, E actions.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from data_lake.schemas import SPLITS, TRAIN, VALIDATION
from model.data import DAY, Ints, TrainingSet

MOMENTS = 512
"""Moments at which the counts are taken, about; as many training actions lie between any two."""

CELLS = 2**25
"""Moments times items, about, at most: a large catalogue is counted at fewer moments, and so longer before a choice."""

SAMPLE = 2**20
"""Training actions by whose times the moments are chosen, about."""


class Trends(nn.Module):
    """What recent choices add to a score: per domain, a weighted sum of the counts of each half-life.

    At moment 0 nothing was chosen; moment m is edges[m - 1], at which all earlier training actions are counted, the
    last of them the end of training; moment M + 1 is now, where every real action of the data is counted.
    """

    edges: Tensor  # (M,) milliseconds, rising
    counts: Tensor  # (items + 1, M + 2, H) log(1 + count) in half precision

    def __init__(self, data: TrainingSet, half_lives: tuple[float, ...]) -> None:
        """half_lives: (H,) days after which an action counts half."""
        super().__init__()
        height = len(data.item_domain)
        edges = _edges(data, min(MOMENTS, CELLS // height))
        counts = torch.zeros((height, len(edges) + 2, len(half_lives)), dtype=torch.float16)
        now = np.array([max((int(times.max()) for times, _ in data.real_actions(SPLITS)), default=0) + 1])
        for place, days in enumerate(half_lives):
            counts[:, 1:-1, place] = log_counts(data.real_actions([TRAIN]), edges, days, height)
            counts[:, -1:, place] = log_counts(data.real_actions(SPLITS), now, days, height)
        self.register_buffer("edges", torch.from_numpy(edges), persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.weight = nn.Parameter(torch.zeros(len(data.domains), len(half_lives)))
        targets = [int(times.min()) for times, _ in data.real_actions([VALIDATION])]
        self.by_time = bool(len(edges) and targets and edges[-1] <= min(targets))
        """Whether training ends before the first target, so that each target is asked for when all of it is known."""

    @property
    def end_of_training(self) -> int:
        return len(self.edges)

    @property
    def now(self) -> int:
        return len(self.edges) + 1

    def moments(self, times: Tensor) -> Tensor:
        """Return the latest moment that is no later than each time, in the same shape."""
        return torch.bucketize(times, self.edges, right=True)

    def moments_of(self, data: TrainingSet, users: Ints, cuts: Ints) -> Tensor:
        """Return the moment at which each row is scored, (B,): that of the last item before position cuts (B,).

        Where nothing comes after what is read, it is now; else, where the split is by time, the end of training.
        """
        device = self.edges.device
        last = data.offsets[users] + cuts - 1
        moments = self.moments(torch.from_numpy(data.times[last.clip(min=0)]).to(device))
        if self.by_time:
            moments.fill_(self.end_of_training)
        moments[torch.from_numpy(cuts == 0).to(device)] = 0
        moments[torch.from_numpy(cuts == data.lengths[users]).to(device)] = self.now
        return moments

    def forward(self, items: Tensor, domain: int) -> Tensor:
        """items: (K,) numbers of one domain. Returns (M + 2, K), what each moment adds to the score of each item."""
        return self._weighed(self.counts[items], domain).T.contiguous()

    def each(self, items: Tensor, moments: Tensor, domain: int) -> Tensor:
        """items, moments: (P,). Returns (P,), what is added to the score of each item at its own moment."""
        return self._weighed(self.counts[items, moments], domain)

    def _weighed(self, counts: Tensor, domain: int) -> Tensor:
        """counts: (..., H). Returns (...) in single precision."""
        with torch.autocast(counts.device.type, enabled=False):
            return counts.float() @ self.weight[domain]


def log_counts(actions: Iterable[tuple[Ints, Ints]], edges: Ints, half_life: float, height: int) -> Tensor:
    """Return (height, M): per item log(1 + sum of 2 ** -(age / half-life)) over the actions before each moment.

    actions: times and items, in parts and in any order. edges: (M,), rising. half_life: days. An action at the time of
    a moment is not before it.
    """
    counts = torch.zeros((len(edges), height))
    for times, items in actions:
        next_edge = np.searchsorted(edges, times, side="right")  # the first that the action is before
        counted = next_edge < len(edges)
        next_edge, times, items = next_edge[counted], times[counted], items[counted]
        worth = np.exp2((times - edges[next_edge]) / (half_life * DAY)).astype(np.float32)
        counts.view(-1).index_add_(0, torch.from_numpy(next_edge * height + items), torch.from_numpy(worth))
    for number in range(1, len(edges)):
        counts[number] += counts[number - 1] * 2.0 ** (float(edges[number - 1] - edges[number]) / (half_life * DAY))
    return counts.log1p_().T


def _edges(data: TrainingSet, most: int) -> Ints:
    """Return (M,) times of training actions, about equally many actions apart, and one after all; none without any."""
    stride = max(1, int(data.train_actions.sum()) // SAMPLE)
    times = [times[::stride] for times, _ in data.real_actions([TRAIN])]
    if not times:
        return np.empty(0, np.int64)
    rising = np.sort(np.concatenate(times))
    return np.append(np.unique(rising[:: -(-len(rising) // max(1, most))]), data.trained_until + 1)
