"""Phase 1, shared pre-training: one causal reading of the mixed sequence learns all domains.

Letters used in this file: B users, L positions, P predictions, K items in use, D hidden size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model import parallel
from model.data.sequences import Batch
from model.loss.objective import Reading
from model.loss.scores import Catalogue, Items
from model.network.network import Network, gather_positions


class SharedPretraining:
    """Reads batches with all weights in training."""

    def __init__(self, network: Network, catalogue: Catalogue) -> None:
        self.network, self.item_domain = network, catalogue.item_domain
        self.row_of = torch.zeros_like(catalogue.item_domain)  # (items + 1,); also holds what other batches left there

    def read(self, batch: Batch, negatives: list[Tensor]) -> Reading:
        """Return the queries (P, D) of the mixed sequences, and the users' last states."""
        network, windows = self.network, batch.windows
        items = self._item_vectors([windows.items.flatten(), batch.target, *negatives])  # vectors (K, D)
        inputs = F.embedding(items.row_of[windows.items], items.vectors)  # (B, L, D)
        states = network.encode(inputs, windows)  # (B, L, D)
        read = gather_positions(states, batch.batch_index, batch.position)  # (P, D)

        def user_states() -> list[Tensor]:
            users = torch.arange(len(states), device=states.device)
            return [gather_positions(states, users, windows.lengths - 1)]  # (B, D)

        query = network.shared_query(read, self.item_domain[batch.target])
        return Reading(query, Items(network.scaled(items.vectors), items.row_of), user_states)

    def _item_vectors(self, numbers: list[Tensor]) -> Items:
        """Compute the vectors of the items that the batch reads, predicts or contrasts, each once."""
        used = parallel.union(torch.cat(numbers))  # (K,)
        self.row_of[used] = torch.arange(len(used), device=used.device)
        return Items(self.network.item_vectors(used), self.row_of)
