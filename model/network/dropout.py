"""Dropout, alone and inside attention; on CPU from random numbers of 16 bits.

PyTorch draws the dropout of a CPU element by element on one thread, a sixth of the time of a training step.

Letters used in this file: B sequences, H heads, L positions, E size of a head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def dropout(states: Tensor, rate: float) -> Tensor:
    """Set elements to zero at this rate and scale up the others. On CPU the rate is rounded to 1 / 65,536."""
    if rate == 0.0:
        return states
    if states.device.type != "cpu":
        return F.dropout(states, rate)
    threshold = round(rate * 2**16)
    drawn = torch.empty(states.numel() // 4 + 1, dtype=torch.int64).random_(-(2**63), None)
    bits = drawn.view(torch.int16)[: states.numel()].view(states.shape)
    kept = torch.empty_like(states)
    torch.ge(bits, threshold - 2**15, out=kept)
    return states * kept.mul_(2**16 / (2**16 - threshold))


def causal_attention(query: Tensor, key: Tensor, value: Tensor, rate: float) -> Tensor:
    """Return (B, H, L, E): each position's mean of the values up to its own, whose weights drop out at this rate.

    query, key, value: (B, H, L, E). Weights are the softmax of the dot products over the root of E.
    """
    if rate == 0.0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
    length, size = query.shape[-2:]
    later = query.new_full((length, length), -torch.inf).triu(1)  # (L, L)
    weights = (query * size**-0.5 @ key.transpose(-1, -2) + later).softmax(-1)  # (B, H, L, L)
    return dropout(weights, rate) @ value
