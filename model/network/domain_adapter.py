"""What domain fine-tuning trains for one domain, over the frozen shared transformer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import NetworkConfig
from model.network.dropout import dropout


class DomainAdapter(nn.Module):
    """A residual bottleneck adapter, a head, and the weight of the domain's term in the score.

    The bottleneck corrects the frozen transformer's states of the domain's sub-sequence (Houlsby et al., ICML 2019).
    Its up-projection starts at zero and the head at the identity, so that an adapter starts as the transformer's own
    states.
    """

    def __init__(self, cfg: NetworkConfig, weight: float, weight_learnt: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight), requires_grad=weight_learnt)
        self.down = nn.Linear(cfg.hidden, cfg.bottleneck)
        self.up = nn.Linear(cfg.bottleneck, cfg.hidden)
        self.head = identity(cfg.hidden)
        self.dropout = cfg.bottleneck_dropout
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """states: (..., D) of the frozen transformer. Returns (..., D)."""
        adapted = states + dropout(self.up(F.gelu(self.down(states))), self.dropout if self.training else 0.0)
        query: Tensor = self.head(adapted)
        return query


def identity(hidden: int) -> nn.Linear:
    """Return a linear map that starts as the identity."""
    linear = nn.Linear(hidden, hidden)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
