"""What a batch learns, in either phase: the next-item loss, and the terms beside it.

Letters used in this file: B users, P predictions, D hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import PhaseConfig, TrainConfig
from model.data.sequences import Batch
from model.data.training_set import TrainingSet
from model.loss.align import align_term
from model.loss.next_item import NEXT_ITEM_LOSSES, NextItemLoss
from model.loss.scores import Catalogue, DomainScores, Items
from model.loss.user_states import ProfileVectors, UserStates
from model.network.network import Network

NEXT_ITEM = "next_item"


class ExtraTerm(NamedTuple):
    """A term beside the next-item loss: a mean over users, the same on all processes, and what it weighs."""

    function: Callable[[UserStates], Tensor]
    weight: Callable[[PhaseConfig], float]


EXTRA_TERMS: dict[str, ExtraTerm] = {"align": ExtraTerm(align_term, attrgetter("align_weight"))}
"""The terms by name; a new one is a function, a line here, and the setting of its weight."""


@dataclass(frozen=True)
class Reading:
    """What a phase makes of a batch."""

    query: Tensor  # (P, D) what scores the items at each prediction
    items: Items  # vectors as scores see them
    user_states: Callable[[], list[Tensor]]
    """Computes, where a term asks for them, the states of the batch's users, (B, D) each: one, or one per domain."""


class Phase(Protocol):
    """How one phase reads a batch."""

    network: Network

    def read(self, batch: Batch, negatives: list[Tensor]) -> Reading:
        """negatives: item numbers, per domain, that the loss needs the vectors of beside those of the batch."""
        ...


@dataclass(frozen=True)
class LossTerms:
    """The parts of a batch's loss."""

    next_item: Tensor  # sum over this process's predictions, each times its weight
    weight: Tensor  # sum of those weights
    extra: dict[str, Tensor]  # each a mean over users, the same on all processes


class Objective:
    """The next-item loss over the target's domain and the terms beside it, as the settings have them."""

    def __init__(self, data: TrainingSet, cfg: TrainConfig, phase: PhaseConfig, device: torch.device) -> None:
        self.cfg = cfg.loss
        self.temperature = cfg.network.temperature
        self.catalogue = Catalogue.of(data, device)
        self.next_item: NextItemLoss = NEXT_ITEM_LOSSES[cfg.loss.next_item](self.catalogue, cfg.loss)
        self.profile_vectors = ProfileVectors(data, cfg.aggregate, torch.device("cpu") if data.on_disk else device)
        self.factors = {NEXT_ITEM: 1.0} | {name: term.weight(phase) for name, term in EXTRA_TERMS.items()}
        """What each part of the loss weighs, by its name."""

    def terms(self, phase: Phase, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Return the parts of the batch's loss; a term that weighs nothing is 0 and not computed."""
        negatives = self.next_item.draw(batch.target, generator)
        reading = phase.read(batch, negatives)
        next_item = self._next_item(phase.network, reading, batch, negatives)
        extra = {name: next_item.new_zeros(()) for name in EXTRA_TERMS}
        active = [name for name in EXTRA_TERMS if self.factors[name] > 0]
        states = reading.user_states() if active else []
        for name in active:
            for each in states:
                users = UserStates(phase.network, each, batch.users, self.profile_vectors, self.cfg)
                extra[name] = extra[name] + EXTRA_TERMS[name].function(users) / len(states)
        return LossTerms(next_item, batch.weight.sum(), extra)

    def _next_item(self, network: Network, reading: Reading, batch: Batch, negatives: list[Tensor]) -> Tensor:
        """Return the weighted sum of the next-item losses over all domains."""
        target_domain = self.catalogue.item_domain[batch.target]  # (P,)
        loss = reading.query.new_zeros((), dtype=torch.float32)
        for domain, competing in enumerate(negatives):
            mine = (target_domain == domain).nonzero().squeeze(1)
            query, time = F.embedding(mine, reading.query), batch.time[mine]
            scores = DomainScores(query, reading.items, network.recency_popularity, time, domain, self.temperature)
            loss = loss + self.next_item(scores, batch.target[mine], competing, batch.weight[mine])
        return loss
