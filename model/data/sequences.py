"""Windows of users' sequences as padded tensors, and what is predicted from them.

Letters used in this file: B users of a batch, L positions of its longest window, R positions that are read, P
predictions, N flat positions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import LossConfig
from model.data.training_set import DAY, TrainingSet


@dataclass(frozen=True)
class Windows:
    """What is read of some users' histories. Rows are filled from the left and padded on the right."""

    items: Tensor  # (B, L) item numbers, 0 is padding
    position_ids: Tensor  # (B, L) real items before a real position; a synthetic item has that of the last real one
    synthetic: Tensor  # (B, L) bool
    lengths: Tensor  # (B,) positions that are no padding

    def to(self, device: torch.device) -> "Windows":
        return Windows(*(tensor.to(device) for tensor in (self.items, self.position_ids, self.synthetic, self.lengths)))


@dataclass(frozen=True)
class Batch:
    """Windows of training prefixes and what is predicted from them."""

    users: Tensor  # (B,) rows of the training set
    windows: Windows
    start: Tensor  # (B,) flat position at which each window starts
    batch_index: Tensor  # (P,) the window of a prediction ...
    position: Tensor  # (P,) ... and the last position in it that the prediction reads
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
        self.weights = self._tensor(data.weights)  # (N,)
        self.times = self._tensor(data.times)  # (N,)
        self.offsets = self._tensor(data.offsets)  # (users + 1,)
        self.real_before = self._tensor(data.real_before)  # (N + 1,)
        self.real_at = self._tensor(data.real_at)  # (real positions + 1,)
        self.train_end = self._tensor(data.train_end)  # (users,)
        self.trained_until = data.trained_until

    def windows(self, users: Tensor, prefix_lengths: Tensor) -> tuple[Windows, Tensor]:
        """Return the windows at the end of the users' first `prefix_lengths` (B,) stored positions.

        Also return the flat position (B,) at which each window starts.
        """
        windows, start = self._windows(users.to(self.home), prefix_lengths.to(self.home))
        return windows.to(self.device), start.to(self.device)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """Return the array where the sequences are held: a copy, but of a memory-mapped one."""
        return torch.from_numpy(array) if isinstance(array, np.memmap) else torch.tensor(array, device=self.home)

    def _windows(self, users: Tensor, prefix_lengths: Tensor) -> tuple[Windows, Tensor]:
        first, end = self.offsets[users], self.offsets[users] + prefix_lengths
        kept = self.real_before[end] - self.max_length  # real items before the window, over all users
        start = torch.where(kept > self.real_before[first], self.real_at[kept.clamp(min=0)], first)
        lengths = end - start
        position = torch.arange(max(int(lengths.max()), 1), device=start.device)  # (L,)
        is_pad = position >= lengths[:, None]  # (B, L)
        flat = (start[:, None] + position).clamp(max=max(len(self.items) - 1, 0))  # (B, L)
        items = self.items[flat].long().masked_fill(is_pad, 0)
        position_ids = self.real_before[flat + 1] - self.real_before[start][:, None] - 1
        position_ids = position_ids.clamp(0, self.max_length - 1).masked_fill(is_pad, 0)
        return Windows(items, position_ids, self.synthetic[flat] & ~is_pad, lengths), start

    def training_windows(self, users: Tensor) -> tuple[Windows, Tensor]:
        """Return the windows that batches of `users` (B,) read, and the flat position (B,) at which each starts."""
        return self.windows(users, self._last_target(users.to(self.home)) - self.offsets[users.to(self.home)])

    def batch(self, users: Tensor, loss: LossConfig) -> Batch:
        """Return the training prefixes of `users` (B,), each up to its last real training item, which is only a target.

        Each real position predicts the next real item, as in ranking, and so reads what was inserted before it and not
        what was inserted after it. The older a target is the less it weighs. A synthetic item is a target of the last
        real item before it, with the weight that the settings give it or that is its own. One without weight is no
        target.
        """
        users = users.to(self.home)
        last = self._last_target(users)  # (B,)
        windows, start = self._windows(users, last - self.offsets[users])
        read_index, read_position = (windows.items > 0).nonzero(as_tuple=True)  # (R,) every position that is read
        flat = start[read_index] + read_position
        next_real = self.real_before[flat + 1]  # (R,) the next real item, counted over all users
        is_real = ~self.synthetic[flat]
        batch_index, position, time = read_index[is_real], read_position[is_real], self.times[flat[is_real]]
        target = self.items[self.real_at[next_real[is_real]]].long()
        weight = self._target_weight(loss, next_real[is_real], last[batch_index])
        if loss.synthetic_weight != 0:
            worth = self._synthetic_weight(loss, flat + 1)
            extra = (worth > 0) & (next_real > self.real_before[start[read_index]])  # (R,) and a real item is before it
            last_real = self.real_at[next_real[extra] - 1]
            time = torch.cat([time, self.times[last_real]])
            batch_index = torch.cat([batch_index, read_index[extra]])
            position = torch.cat([position, last_real - start[read_index[extra]]])
            target = torch.cat([target, self.items[flat[extra] + 1].long()])
            weight = torch.cat([weight, worth[extra]])
        tensors = [tensor.to(self.device) for tensor in (start, batch_index, position, target, weight, time)]
        return Batch(users.to(self.device), windows.to(self.device), *tensors)

    def _last_target(self, users: Tensor) -> Tensor:
        """Return the flat position (B,) of each user's last real training item, which is a target alone."""
        return self.real_at[self.real_before[self.offsets[users] + self.train_end[users]] - 1]

    def _synthetic_weight(self, loss: LossConfig, flat: Tensor) -> Tensor:
        """Return what each flat position (P,) counts as an inserted target; 0 for real ones."""
        if loss.synthetic_weight == "measured":
            return self.weights[flat]
        return self.synthetic[flat] * loss.synthetic_weight

    def _target_weight(self, loss: LossConfig, target: Tensor, last: Tensor) -> Tensor:
        """Return (P,), what each real target counts: the less the older it is, in its user's history and by its date.

        target: (P,) the real item, counted over all users. last: (P,) flat position of its user's last training item.
        """
        weight = torch.ones(len(target), device=self.home)
        if loss.half_after_actions:
            newer = self.real_before[last] - target
            weight = weight * torch.exp2(-newer / loss.half_after_actions)
        if loss.half_after_days:
            age = (self.trained_until - self.times[self.real_at[target]]) / DAY
            weight = weight * torch.exp2(-age / loss.half_after_days)
        return weight
