"""The transformer's block.

Letters used in this file: B sequences, L positions, D hidden size.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from model.config import NetworkConfig
from model.network.dropout import causal_attention, dropout


class Block(nn.Module):
    """One pre-norm transformer block; a position attends to itself and to earlier ones."""

    def __init__(self, cfg: NetworkConfig) -> None:
        super().__init__()
        self.heads = cfg.heads
        self.attention_norm = nn.LayerNorm(cfg.hidden)
        self.to_heads = nn.Linear(cfg.hidden, 3 * cfg.hidden)
        self.from_heads = nn.Linear(cfg.hidden, cfg.hidden)
        self.feedforward_norm = nn.LayerNorm(cfg.hidden)
        self.widen = nn.Linear(cfg.hidden, cfg.feedforward)
        self.narrow = nn.Linear(cfg.feedforward, cfg.hidden)
        self.dropout = cfg.dropout

    def forward(self, states: Tensor) -> Tensor:
        """states: (B, L, D). Returns (B, L, D). Padding stands on the right, so no real position ever sees it."""
        drop = self.dropout if self.training else 0.0
        b, n, d = states.shape
        heads = self.to_heads(self.attention_norm(states)).view(b, n, 3 * self.heads, d // self.heads)
        query, key, value = (part.transpose(1, 2) for part in heads.chunk(3, dim=2))  # each (B, heads, L, D / heads)
        mixed = causal_attention(query, key, value, drop)
        mixed = self.from_heads(mixed.transpose(1, 2).reshape(b, n, d))  # (B, L, D)
        states = states + dropout(mixed, drop)
        inner = dropout(F.gelu(self.widen(self.feedforward_norm(states))), drop)
        return states + dropout(self.narrow(inner), drop)
