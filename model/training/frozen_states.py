"""What the frozen transformer makes of the training windows: the same in every epoch of phase 2.

Letters used in this file: B users, L positions, N flat positions, R rows, D hidden size.
"""

import shutil
import sys
import tempfile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_lake.progress import counted
from model import parallel
from model.data.sequences import Batch, Sequences, Windows
from model.data.streaming import mapped
from model.data.training_set import Ints
from model.network.network import Network

GIGABYTE = 2**30


class States(NamedTuple):
    """The states of windows, one row a position."""

    shared: Tensor  # (R, D) of the mixed sequence
    domain: Tensor  # (R, D) of the sub-sequence of the item's own domain
    first: Tensor  # (B,) the row of each window's first position


class FrozenStates:
    """States of training windows, computed once and held by nameless files in the temporary folder.

    Where these would take more than half of its free room, the states are computed anew for each batch.
    """

    def __init__(
        self, network: Network, inputs: Tensor, item_domain: Tensor, sequences: Sequences, users: Ints, batch_size: int
    ) -> None:
        """inputs: (items + 1, D). item_domain: (items + 1,). users: who is trained on."""
        self.network, self.inputs, self.item_domain, self.sequences = network, inputs, item_domain, sequences
        self.users, self.batch_size = users, batch_size
        self.held: tuple[Tensor, Tensor] | None = None  # each (N, D)
        size = 2 * 4 * len(sequences.items) * inputs.shape[1]
        folder = tempfile.gettempdir()
        self.has_room = 2 * size <= shutil.disk_usage(folder).free
        if not self.has_room and parallel.rank() == 0:
            gigabytes = f"{size / GIGABYTE:.0f} GiB of states"
            print(f"finetune: {folder} has no room for {gigabytes}, so each epoch computes them", file=sys.stderr)

    def __call__(self, batch: Batch) -> States:
        """Return states among which those of the batch's windows are."""
        if not self.has_room:
            shared, domain = self._compute(batch.windows)
            first = torch.arange(len(shared), device=shared.device) * shared.shape[1]
            return States(shared.flatten(0, 1), domain.flatten(0, 1), first)
        if self.held is None:
            self.held = self._compute_all()
        return States(*self.held, batch.start)

    def _compute_all(self) -> tuple[Tensor, Tensor]:
        """Compute the states of all windows, in the same parts whatever epoch begins; each process computes a part."""
        size = len(self.sequences.items), self.inputs.shape[1]
        held = torch.from_numpy(mapped(np.float32, size)), torch.from_numpy(mapped(np.float32, size))
        parts = np.array_split(self.users, max(1, len(self.users) // self.batch_size))
        for part in counted(parts, "states", len(parts), "batches"):
            mine = torch.from_numpy(part[parallel.rank() :: parallel.world()]).to(self.inputs.device)
            windows, start = self.sequences.training_windows(mine)
            place = torch.arange(windows.items.shape[1], device=start.device)  # (L,)
            is_read = place < windows.lengths[:, None]  # (B, L)
            rows = parallel.gather((start[:, None] + place)[is_read]).cpu()  # (R,)
            for table, states in zip(held, self._compute(windows), strict=True):
                table.index_copy_(0, rows, parallel.gather(states[is_read]).cpu())
        return held

    @torch.no_grad()
    def _compute(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """Return the states of the mixed windows and of their items' own domains, each (B, L, D)."""
        inputs, item_domains = self.inputs[windows.items], self.item_domain[windows.items]
        domains = range(len(self.network.domain_adapters))
        own = self.network.domain_states(inputs, windows, item_domains, domains)
        return self.network.encode(inputs, windows).float(), own.float()
