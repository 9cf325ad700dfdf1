"""Binary cross-entropy of each target against one negative of its own, as SASRec is trained.

Letters used in this file: P predictions of one domain.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import LossConfig
from model.loss.scores import Catalogue, DomainScores


class BinaryCrossEntropy:
    """One uniform negative per prediction, from the target's domain."""

    def __init__(self, catalogue: Catalogue, cfg: LossConfig) -> None:
        self.catalogue = catalogue

    def draw(self, target: Tensor, generator: torch.Generator) -> list[Tensor]:
        """target: (all predictions,). Returns per domain one item number for each of its targets, in their order."""
        chance = torch.rand(len(target), generator=generator, device=target.device)
        domain = self.catalogue.item_domain[target]
        drawn = []
        for number, items in enumerate(self.catalogue.domain_items):
            drawn.append(items[(chance[domain == number] * len(items)).long().clamp(max=len(items) - 1)])
        return drawn

    def __call__(self, scores: DomainScores, target: Tensor, negatives: Tensor, weight: Tensor) -> Tensor:
        """target, negatives, weight: (P,). Returns the weighted sum of losses."""
        return binary(scores.logits(target), scores.logits(negatives), negatives == target, weight)


def binary(positive_logits: Tensor, negative_logits: Tensor, is_target: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted sum of -log sigmoid(positive) - log(1 - sigmoid(negative)).

    positive_logits, negative_logits, weight: (P,). is_target: (P,) bool, where the negative is the target, and is left
    out.
    """
    losses = F.softplus(-positive_logits.float()) + F.softplus(negative_logits.float()).masked_fill(is_target, 0.0)
    return (losses * weight).sum()
