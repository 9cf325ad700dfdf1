"""The next-item losses by the name that `[loss] next_item` gives them.

A new one is one class with the two methods of `NextItemLoss`, a line in the table, and its name in the setting.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from model.config import LossConfig, NextItem
from model.loss.binary import BinaryCrossEntropy
from model.loss.scores import Catalogue, DomainScores
from model.loss.softmax import SampledSoftmax


class NextItemLoss(Protocol):
    """Draws what the targets compete with, and says what a prediction costs."""

    def draw(self, target: Tensor, generator: torch.Generator) -> list[Tensor]:
        """target: item numbers of all predictions. Returns the negatives of each domain's, by item number."""
        ...

    def __call__(self, scores: DomainScores, target: Tensor, negatives: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted sum of the losses of one domain's predictions.

        target, weight: (P,). negatives: what `draw` returned for the domain.
        """
        ...


NEXT_ITEM_LOSSES: dict[NextItem, Callable[[Catalogue, LossConfig], NextItemLoss]] = {
    "softmax": SampledSoftmax,
    "bce": BinaryCrossEntropy,
}
