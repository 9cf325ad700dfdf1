"""Phase 2: phase 1 is frozen; each domain's reader learns what to add to the shared score."""

import torch

from model.batches import Batch
from model.config import FinetuneConfig
from model.network import Network
from model.objective import Items, Objective, Terms


class Finetune:
    """The losses of phase 2. Item vectors are frozen, so they are computed once."""

    def __init__(self, network: Network, objective: Objective, cfg: FinetuneConfig) -> None:
        self.cfg = cfg
        vectors = network.all_item_vectors()
        self.items = Items(vectors, torch.arange(len(vectors), device=vectors.device))

    def terms(self, network: Network, objective: Objective, batch: Batch, generator: torch.Generator) -> Terms:
        """Return the losses of a batch. B users, L positions, P predictions, D hidden size."""
        drawn = objective.draw(batch, generator)
        inputs = self.items.vectors[batch.windows.items]  # (B, L, D)
        domains = objective.item_domain[batch.windows.items]  # (B, L)
        shared = self.cfg.train_score == "sum"

        wanted = objective.item_domain[batch.target]  # (P,)
        query = network.query(inputs, batch.windows, domains, batch.row, batch.step, wanted, shared)  # (P, D)
        next_item = objective.next_item(network, query, self.items, batch, drawn)

        align = next_item.new_zeros(())
        if self.cfg.align_weight > 0:
            row, last = torch.arange(len(inputs), device=inputs.device), batch.windows.lengths - 1
            for number in range(len(network.readers)):
                state = network.query(inputs, batch.windows, domains, row, last, torch.full_like(row, number), shared)
                align = align + objective.align(network, state, batch.users) / len(network.readers)
        return Terms(next_item, batch.weight.sum(), align)
