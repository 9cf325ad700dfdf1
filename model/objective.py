"""What a batch learns: draw negatives, fetch the item vectors that it needs, take the losses.

Letters used in this file: B users, L positions, P predictions, K items in use, N negatives, T moments, D hidden size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model import losses, parallel
from model.batches import Batch
from model.config import TrainConfig
from model.data import TrainingSet
from model.network import Network
from model.trends import Trends


@dataclass(frozen=True)
class Items:
    """The item vectors that a batch uses, each computed once."""

    vectors: Tensor  # (K, D)
    at: Tensor  # (items + 1,) row of an item in `vectors`; meaningless for items that are not in use


@dataclass(frozen=True)
class Terms:
    """The parts of a batch's loss on this process: a sum over predictions with its weight, and a mean over users."""

    next_item: Tensor
    weight: Tensor
    align: Tensor


@dataclass(frozen=True)
class Scores:
    """How the predictions of one domain score its items: (query @ item + what is chosen lately) / temperature."""

    query: Tensor  # (P, D)
    keys: Tensor  # (K, D)
    at: Tensor  # (items + 1,) row of an item in `keys`
    trends: Trends | None
    time: Tensor  # (P,) of the last item that each prediction reads
    domain: int
    temperature: float

    def own(self, items: Tensor) -> Tensor:
        """items: (P,). Returns (P,), the score of each prediction's own item."""
        scores = (self.query * F.embedding(self.at[items], self.keys)).sum(1)
        if self.trends is not None:
            scores = scores + self.trends.each(items, self.trends.moments(self.time), self.domain)
        return scores / self.temperature

    def others(self, items: Tensor) -> losses.Others:
        """items: (N,). Returns what gives the scores of all of them at each prediction."""
        query, keys = self.query / self.temperature, F.embedding(self.at[items], self.keys)
        if self.trends is None:
            return losses.Others(items, query, keys, query.new_zeros((1, len(items))), torch.zeros_like(self.time))
        added, moments = self.trends(items, self.domain) / self.temperature, self.trends.moments(self.time)
        return losses.Others(items, query, keys, added, moments)


class Objective:
    """The next-item loss over the target's domain and the align term, as the settings have them."""

    def __init__(self, data: TrainingSet, cfg: TrainConfig, device: torch.device) -> None:
        self.cfg = cfg.loss
        self.temperature = cfg.network.temperature
        self.item_domain = torch.from_numpy(data.item_domain.astype(np.int64)).to(device)  # (items + 1,)
        self.domain_items = [torch.from_numpy(items).to(device) for items in data.domain_items]
        self.at = torch.zeros(data.n_items + 1, dtype=torch.int64, device=device)
        self.share = torch.zeros(data.n_items + 1, device=device)  # of each item in the draws from its domain
        self.cumulative = []  # per domain, over its items
        actions = torch.tensor(data.train_actions, device=device)  # (items + 1,)
        for items in self.domain_items:
            often = (actions[items] + 1.0).double() ** cfg.loss.popularity
            share = often / often.sum()
            self.cumulative.append(share.cumsum(0))
            self.share[items] = share.float()
        self.profiles = _profiles(data, cfg.aggregate, torch.device("cpu") if data.on_disk else device)

    def draw(self, batch: Batch, generator: torch.Generator) -> list[Tensor]:
        """Return item numbers of negatives: (N,) per domain; for the binary loss one (P,) tensor."""
        device = batch.target.device
        if self.cfg.next_item == "bce":
            chance = torch.rand(len(batch.target), generator=generator, device=device)
            negative = torch.zeros_like(batch.target)
            for d, items in enumerate(self.domain_items):
                mine = self.item_domain[batch.target] == d
                negative[mine] = items[(chance[mine] * len(items)).long().clamp(max=len(items) - 1)]
            return [negative]
        drawn = []
        for domain, (items, cumulative) in enumerate(zip(self.domain_items, self.cumulative, strict=True)):
            if self._exact(domain):
                drawn.append(items)
                continue
            chance = torch.rand(self.cfg.negatives, generator=generator, device=device, dtype=torch.float64)
            drawn.append(items[torch.searchsorted(cumulative, chance).clamp(max=len(items) - 1)])
        return drawn

    def fetch(self, network: Network, batch: Batch, drawn: list[Tensor]) -> Items:
        """Compute the vectors of the items that the batch reads, predicts or contrasts, each once."""
        numbers = parallel.union(torch.cat([batch.windows.items.flatten(), batch.target, *drawn]))  # (K,)
        self.at[numbers] = torch.arange(len(numbers), device=self.at.device)  # what else it holds is of other batches
        return Items(network.item_vectors(numbers), self.at)

    def next_item(self, network: Network, query: Tensor, items: Items, batch: Batch, drawn: list[Tensor]) -> Tensor:
        """query: (P, D), what scores the items at each prediction. Returns the weighted sum of losses."""
        keys = network.scaled(items.vectors)  # (K, D)
        loss = query.new_zeros((), dtype=torch.float32)
        for domain in range(len(self.domain_items)):
            mine = (self.item_domain[batch.target] == domain).nonzero().squeeze(1)
            negative = drawn[0][mine] if self.cfg.next_item == "bce" else drawn[domain]
            asked, time = F.embedding(mine, query), batch.time[mine]
            scores = Scores(asked, keys, items.at, network.trends, time, domain, self.temperature)
            loss = loss + self._domain_loss(scores, batch.target[mine], negative, batch.weight[mine])
        return loss

    def _domain_loss(self, scores: Scores, target: Tensor, negative: Tensor, weight: Tensor) -> Tensor:
        """target, weight: (P,). negative: (N,), for the binary loss (P,). Returns the weighted sum of losses."""
        if self.cfg.next_item == "bce":
            return losses.binary(scores.own(target), scores.own(negative), negative == target, weight)
        others = scores.others(negative)
        if not self._exact(scores.domain):
            expected = self.share[negative] * len(negative)  # (N,)
            others = others._replace(added=others.added - expected.log())
        return losses.softmax(scores.own(target), target, others, weight)

    def align(self, network: Network, states: Tensor, users: Tensor) -> Tensor:
        """states: (B, D) of `users`. Returns the align term over the users with a profile, of all processes."""
        if network.profile is None:
            return states.new_zeros(())
        users = users.to(self.profiles[0][0].device)
        vectors = torch.stack([vectors[users] for vectors, _ in self.profiles], 1).to(states.device)  # (B, S, P)
        present = torch.stack([present[users] for _, present in self.profiles], 1).to(states.device)  # (B, S)
        known = present.any(1)
        states, profiles = states[known], network.profile(vectors[known], present[known])  # (B, D)
        states, profiles = parallel.gather(states), parallel.gather(profiles)
        if not len(states):
            return states.new_zeros(())
        return losses.align(states, profiles, self.cfg.align, self.cfg.align_temperature)

    def _exact(self, domain: int) -> bool:
        return self.cfg.negatives == 0 or self.cfg.negatives >= len(self.domain_items[domain])


def _profiles(data: TrainingSet, aggregate: str, home: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return, per scope that the align term reads, the profile vectors (users, P) and which are there (users,)."""
    read = [data.profiles[scope] for scope in profile_scopes(data, aggregate)]
    return [(torch.from_numpy(each.vectors).to(home), torch.from_numpy(each.present).to(home)) for each in read]


def profile_scopes(data: TrainingSet, aggregate: str) -> list[str]:
    """The scopes whose vectors make a user's profile: the overall one, or every domain for the gate."""
    wanted = data.domains if aggregate == "gate" else ("all",)
    return [scope for scope in wanted if scope in data.profiles]
