"""Training batches: which users go together, and their windows as padded tensors.

Letters used in this file: B users of a batch, L positions of its longest window, P predictions, N flat positions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import LossConfig
from model.data import DAY, Ints, TrainingSet

BUCKET_BATCHES = 32
"""Batches whose users are sorted by length together: more waste less padding, fewer mix lengths better."""


@dataclass(frozen=True)
class Windows:
    """What is read of some users' histories. Rows are filled from the left and padded on the right."""

    items: Tensor  # (B, L) item numbers, 0 is padding
    places: Tensor  # (B, L) real items before a real position; a synthetic item shares the place of the last one
    synthetic: Tensor  # (B, L) bool
    lengths: Tensor  # (B,) positions that are no padding

    def to(self, device: torch.device) -> "Windows":
        return Windows(*(tensor.to(device) for tensor in (self.items, self.places, self.synthetic, self.lengths)))


@dataclass(frozen=True)
class Batch:
    """Windows of training prefixes and what is predicted from them."""

    users: Tensor  # (B,) rows of the training set
    windows: Windows
    row: Tensor  # (P,) where a prediction is made: row ...
    step: Tensor  # (P,) ... and position of the windows
    target: Tensor  # (P,) item number
    weight: Tensor  # (P,)
    time: Tensor  # (P,) milliseconds, of the last item that is read


class Sequences:
    """The flat sequences of a training set on the device, cut into windows without a loop over users."""

    def __init__(self, data: TrainingSet, max_length: int, device: torch.device) -> None:
        self.max_length = max_length
        self.device = device
        self.home = torch.device("cpu") if data.on_disk else device
        self.items = self._tensor(data.items)  # (N,)
        self.synthetic = self._tensor(data.synthetic)  # (N,)
        self.times = self._tensor(data.times)  # (N,)
        self.offsets = self._tensor(data.offsets)  # (users + 1,)
        self.real_before = self._tensor(data.real_before)  # (N + 1,)
        self.real_at = self._tensor(data.real_at)  # (real positions + 1,)
        self.train_end = self._tensor(data.train_end)  # (users,)
        self.trained_until = data.trained_until

    def windows(self, users: Tensor, cuts: Tensor) -> tuple[Windows, Tensor]:
        """Return the windows that end before `cuts` (B,), and the flat position (B,) at which each starts."""
        windows, start = self._cut(users.to(self.home), cuts.to(self.home))
        return windows.to(self.device), start.to(self.device)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """Return the array where the sequences are held: a copy, but of a memory-mapped one."""
        return torch.from_numpy(array) if isinstance(array, np.memmap) else torch.tensor(array, device=self.home)

    def _cut(self, users: Tensor, cuts: Tensor) -> tuple[Windows, Tensor]:
        first, end = self.offsets[users], self.offsets[users] + cuts
        kept = self.real_before[end] - self.max_length  # real items before the window, over all users
        start = torch.where(kept > self.real_before[first], self.real_at[kept.clamp(min=0)], first)
        lengths = end - start
        step = torch.arange(max(int(lengths.max()), 1), device=start.device)  # (L,)
        is_pad = step >= lengths[:, None]  # (B, L)
        flat = (start[:, None] + step).clamp(max=max(len(self.items) - 1, 0))  # (B, L)
        items = self.items[flat].long().masked_fill(is_pad, 0)
        places = self.real_before[flat + 1] - self.real_before[start][:, None] - 1
        places = places.clamp(0, self.max_length - 1).masked_fill(is_pad, 0)
        return Windows(items, places, self.synthetic[flat] & ~is_pad, lengths), start

    def batch(self, users: Tensor, loss: LossConfig) -> Batch:
        """Return the training prefixes of `users` (B,), each up to its last real training item, which is only a target.

        Every position predicts the next real item. A real item and the synthetic ones inserted after it predict the
        same one and share its weight, which is the less the older it is. A synthetic item is a second target, with the
        weight that the settings give it, of the last real item before it: there the language model was asked.
        """
        users = users.to(self.home)
        first = self.offsets[users]
        last = self.real_at[self.real_before[first + self.train_end[users]] - 1]  # (B,) flat position
        windows, start = self._cut(users, last - first)
        row, step = (windows.items > 0).nonzero(as_tuple=True)  # (P,)
        flat = start[row] + step
        following = self.real_before[flat + 1]  # (P,) the next real item, counted over all users
        target = self.items[self.real_at[following]].long()
        _, which, sharing = torch.unique_consecutive(following, return_inverse=True, return_counts=True)
        weight = self._recency(loss, following, last, row) / sharing[which]
        time = self.times[flat]
        if loss.synthetic_weight > 0:
            extra = self.synthetic[flat + 1]
            before = self.real_at[(self.real_before[flat[extra] + 1] - 1).clamp(min=0)]  # the last real item
            asked = (before - start[row[extra]]).clamp(min=0)
            time = torch.cat([time, time[extra]])
            row, step = torch.cat([row, row[extra]]), torch.cat([step, asked])
            target = torch.cat([target, self.items[flat[extra] + 1].long()])
            weight = torch.cat([weight, weight.new_full((int(extra.sum()),), loss.synthetic_weight)])
        tensors = [tensor.to(self.device) for tensor in (row, step, target, weight, time)]
        return Batch(users.to(self.device), windows.to(self.device), *tensors)

    def _recency(self, loss: LossConfig, following: Tensor, last: Tensor, row: Tensor) -> Tensor:
        """Return (P,), what each real target counts: the less the older it is, within its user's history and at all."""
        weight = torch.ones(len(row), device=self.home)
        if loss.half_after_actions:
            newer = self.real_before[last[row]] - following
            weight = weight * torch.exp2(-newer / loss.half_after_actions)
        if loss.half_after_days:
            age = (self.trained_until - self.times[self.real_at[following]]) / DAY
            weight = weight * torch.exp2(-age / loss.half_after_days)
        return weight


def trainable_users(data: TrainingSet) -> Ints:
    """Rows of the users with at least two real training actions: one to read, one to predict."""
    ends = data.offsets[:-1] + data.train_end
    return np.flatnonzero(data.real_before[ends] - data.real_before[data.offsets[:-1]] >= 2)


def plan(users: Ints, lengths: Ints, batch_size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Return one epoch's batches of users: shuffled, users of similar length together, batches in random order."""
    rng = np.random.default_rng(seed)
    users = rng.permutation(users)
    group = np.arange(len(users)) // (batch_size * BUCKET_BATCHES)
    users = users[np.lexsort((lengths[users], group))]
    batches = np.array_split(users, max(1, len(users) // batch_size))
    return [batches[i] for i in rng.permutation(len(batches))]
