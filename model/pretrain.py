"""Phase 1: one causal reading of the mixed sequence learns all domains, and is pulled to the profiles."""

import torch
from torch.nn import functional as F

from model.batches import Batch
from model.network import Network, at_steps
from model.objective import Objective, Terms


def pretrain_terms(network: Network, objective: Objective, batch: Batch, generator: torch.Generator) -> Terms:
    """Return the losses of a batch. B users, L positions, P predictions, K items in use, D hidden size."""
    drawn = objective.draw(batch, generator)
    items = objective.fetch(network, batch, drawn)  # vectors (K, D)
    inputs = F.embedding(items.at[batch.windows.items], items.vectors)  # (B, L, D)
    states = network.read(inputs, batch.windows, network.positions)  # (B, L, D)

    wanted = objective.item_domain[batch.target]  # (P,)
    query = network.scaled(network.by_domain(at_steps(states, batch.row, batch.step), wanted))  # (P, D)
    next_item = objective.next_item(network, query, items, batch, drawn)

    last = at_steps(states, torch.arange(len(states), device=states.device), batch.windows.lengths - 1)  # (B, D)
    return Terms(next_item, batch.weight.sum(), objective.align(network, last, batch.users))
