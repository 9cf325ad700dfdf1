"""What the losses read: the catalogue by domain, and the scores of one domain's items.

Letters used in this file: P predictions of one domain, K items in use, N negatives, T time bins, D hidden size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.data.training_set import TrainingSet
from model.network.recency_popularity import RecencyPopularity


@dataclass(frozen=True)
class Catalogue:
    """The items of each domain, on the device."""

    item_domain: Tensor  # (items + 1,) index of the domain, -1 for padding
    domain_items: list[Tensor]  # per domain its item numbers, rising
    train_actions: Tensor  # (items + 1,)

    @classmethod
    def of(cls, data: TrainingSet, device: torch.device) -> "Catalogue":
        return cls(
            torch.from_numpy(data.item_domain.astype(np.int64)).to(device),
            [torch.from_numpy(items).to(device) for items in data.domain_items],
            torch.tensor(data.train_actions, device=device),
        )


@dataclass(frozen=True)
class Items:
    """The item vectors that a batch uses, each computed once."""

    vectors: Tensor  # (K, D)
    row_of: Tensor  # (items + 1,) row of an item in `vectors`; meaningless for items that are not in use


class Negatives(NamedTuple):
    """Items that every target competes with. Their logits are query @ keys.T + added[time_bins]."""

    items: Tensor  # (N,) item numbers; a target is no negative of its own
    query: Tensor  # (P, D)
    keys: Tensor  # (N, D)
    added: Tensor  # (T, N) to the logit of each item in each time bin
    time_bins: Tensor  # (P,) rows of `added`


@dataclass(frozen=True)
class DomainScores:
    """How predictions score the items of one domain: (query @ item + recency popularity) / temperature."""

    query: Tensor  # (P, D)
    items: Items  # vectors (K, D) as scores see them
    recency_popularity: RecencyPopularity | None
    time: Tensor  # (P,) of the last item that each prediction reads
    domain: int
    temperature: float

    def logits(self, items: Tensor) -> Tensor:
        """items: (P,), one per prediction. Returns their logits (P,)."""
        scores = (self.query * self._keys(items)).sum(1)
        if self.recency_popularity is not None:
            time_bins = self.recency_popularity.time_bins(self.time)
            scores = scores + self.recency_popularity.each(items, time_bins, self.domain)
        return scores / self.temperature

    def negatives(self, items: Tensor) -> Negatives:
        """items: (N,), the same for all predictions. Returns what gives their logits at each prediction."""
        query, keys = self.query / self.temperature, self._keys(items)
        if self.recency_popularity is None:
            return Negatives(items, query, keys, query.new_zeros((1, len(items))), torch.zeros_like(self.time))
        added = self.recency_popularity(items, self.domain) / self.temperature  # (T, N)
        return Negatives(items, query, keys, added, self.recency_popularity.time_bins(self.time))

    def _keys(self, items: Tensor) -> Tensor:
        return F.embedding(self.items.row_of[items], self.items.vectors)
