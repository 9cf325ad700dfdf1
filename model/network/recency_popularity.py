"""Recency popularity: an item's training actions before a time, the older the less they count.

How often an item was chosen in the last weeks says far more about the next choice than how often it ever was (Ji et
al., SIGIR 2020, "A Re-visit of the Popularity Baseline in Recommender Systems"). A prediction sees only actions before
a time that is no later than the last item that it reads: neither its own target nor anything that comes after.

Letters used in this file: M bin edges, K items, H half-lives, P predictions, B users, E actions.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from data_lake.schemas import SPLITS, TRAIN, VALIDATION
from model.data.training_set import DAY, Ints, TrainingSet

TIME_BINS = 512
"""Times at which the counts are taken, about; as many training actions lie between any two."""

CELLS = 2**25
"""Time bins times items, about, at most: a large catalogue is counted at fewer times, and so longer before a choice."""

SAMPLE = 2**20
"""Training actions by whose times the bins are chosen, about."""


class RecencyPopularity(nn.Module):
    """What recent popularity adds to a score: per domain, a weighted sum of the counts of each half-life.

    In time bin 0 nothing was chosen yet. Bin m starts at bin_edges[m - 1] and counts all training actions before that;
    the last edge is the end of training. Bin M + 1 is now, where every real action of the data is counted.
    """

    bin_edges: Tensor  # (M,) milliseconds, rising
    counts: Tensor  # (items + 1, M + 2, H) log(1 + count) in half precision

    def __init__(self, bin_edges: Tensor, counts: Tensor, domains: int, is_split_by_time: bool) -> None:
        """is_split_by_time: training ends before the first target, so all of it is known when a target is scored."""
        super().__init__()
        self.register_buffer("bin_edges", bin_edges, persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.weight = nn.Parameter(torch.zeros(domains, counts.shape[2]))
        self.is_split_by_time = is_split_by_time

    @classmethod
    def of(cls, data: TrainingSet, half_lives: tuple[float, ...]) -> "RecencyPopularity":
        """Count the actions of a training set. half_lives: (H,) days after which an action counts half."""
        height = len(data.item_domain)
        bin_edges = _bin_edges(data, min(TIME_BINS, CELLS // height))
        counts = torch.zeros((height, len(bin_edges) + 2, len(half_lives)), dtype=torch.float16)
        now = np.array([max((int(times.max()) for times, _ in data.real_actions(SPLITS)), default=0) + 1])
        for column, days in enumerate(half_lives):
            counts[:, 1:-1, column] = log_counts(data.real_actions([TRAIN]), bin_edges, days, height)
            counts[:, -1:, column] = log_counts(data.real_actions(SPLITS), now, days, height)
        targets = [int(times.min()) for times, _ in data.real_actions([VALIDATION])]
        is_split_by_time = bool(len(bin_edges) and targets and bin_edges[-1] <= min(targets))
        return cls(torch.from_numpy(bin_edges), counts, len(data.domains), is_split_by_time)

    @property
    def end_of_training(self) -> int:
        return len(self.bin_edges)

    @property
    def now(self) -> int:
        return len(self.bin_edges) + 1

    def time_bins(self, times: Tensor) -> Tensor:
        """Return the latest time bin that starts no later than each time, in the same shape."""
        return torch.bucketize(times, self.bin_edges, right=True)

    def scoring_time_bins(self, data: TrainingSet, users: Ints, prefix_lengths: Ints) -> Tensor:
        """Return the time bin in which each row is scored, (B,): that of the last item of the prefix that it reads.

        users, prefix_lengths: (B,). Where the whole sequence is read, it is now; else, where the split is by time, the
        end of training.
        """
        device = self.bin_edges.device
        last = data.offsets[users] + prefix_lengths - 1
        times = data.times[last.clip(min=0)] if len(data.times) else np.zeros(len(users), np.int64)
        time_bins = self.time_bins(torch.from_numpy(times).to(device))
        if self.is_split_by_time:
            time_bins.fill_(self.end_of_training)
        time_bins[torch.from_numpy(prefix_lengths == 0).to(device)] = 0
        time_bins[torch.from_numpy(prefix_lengths == data.lengths[users]).to(device)] = self.now
        return time_bins

    def forward(self, items: Tensor, domain: int) -> Tensor:
        """items: (K,) numbers of one domain. Returns (M + 2, K), what each time bin adds to the score of each item."""
        return self._weighed(self.counts[items], domain).T.contiguous()

    def each(self, items: Tensor, time_bins: Tensor, domain: int) -> Tensor:
        """items, time_bins: (P,). Returns (P,), what is added to the score of each item in its own time bin."""
        return self._weighed(self.counts[items, time_bins], domain)

    def _weighed(self, counts: Tensor, domain: int) -> Tensor:
        """counts: (..., H). Returns (...) in single precision."""
        with torch.autocast(counts.device.type, enabled=False):
            return counts.float() @ self.weight[domain]


def log_counts(actions: Iterable[tuple[Ints, Ints]], bin_edges: Ints, half_life: float, height: int) -> Tensor:
    """Return (height, M): per item log(1 + sum of 2 ** -(age / half-life)) over the actions before each edge.

    actions: times and items, in parts and in any order. bin_edges: (M,), rising. half_life: days. An action at the time
    of an edge is not before it.
    """
    counts = torch.zeros((len(bin_edges), height))
    for times, items in actions:
        next_edge = np.searchsorted(bin_edges, times, side="right")  # the first that the action is before
        counted = next_edge < len(bin_edges)
        next_edge, times, items = next_edge[counted], times[counted], items[counted]
        worth = np.exp2((times - bin_edges[next_edge]) / (half_life * DAY)).astype(np.float32)
        counts.view(-1).index_add_(0, torch.from_numpy(next_edge * height + items), torch.from_numpy(worth))
    for number in range(1, len(bin_edges)):
        fade = 2.0 ** (float(bin_edges[number - 1] - bin_edges[number]) / (half_life * DAY))
        counts[number] += counts[number - 1] * fade
    return counts.log1p_().T


def _bin_edges(data: TrainingSet, most: int) -> Ints:
    """Return (M,) times of training actions, about equally many actions apart, and one after all; none without any."""
    stride = max(1, int(data.train_actions.sum()) // SAMPLE)
    times = [times[::stride] for times, _ in data.real_actions([TRAIN])]
    if not times:
        return np.empty(0, np.int64)
    rising = np.sort(np.concatenate(times))
    return np.append(np.unique(rising[:: -(-len(rising) // max(1, most))]), data.trained_until + 1)
