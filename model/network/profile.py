"""A user's profile vector in the network's space.

Letters used in this file: B users, S profile scopes, P size of a profile vector, D hidden size.
"""

import torch
from torch import Tensor, nn

from model.network.item_vectors import Adapter


class Profile(nn.Module):
    """One scope's vector, or a learned mix of several (the gate), adapted to the network's size."""

    def __init__(self, profile_size: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(profile_size, 1)
        self.adapter = Adapter(profile_size, hidden)

    def forward(self, vectors: Tensor, present: Tensor) -> Tensor:
        """vectors: (B, S, P). present: (B, S) bool, at least one True per row. Returns (B, D)."""
        if vectors.shape[1] == 1:
            mixed = vectors[:, 0]
        else:
            weight = self.gate(vectors).squeeze(-1).masked_fill(~present, -torch.inf).softmax(dim=1)  # (B, S)
            mixed = (weight.unsqueeze(-1) * vectors).sum(1)  # (B, P)
        adapted: Tensor = self.adapter(mixed)
        return adapted
