"""The network: a causal transformer over the mixed sequence, shared by all domains, and an adapter per domain.

It is SASRec with the differences that `model/__init__.py` lists. Phase 2 adds, per domain, a second reading of that
domain's items by the same, then frozen, transformer.

Letters used in this file: B sequences, L positions, M positions of one domain, P predictions, D hidden size, T size of
a text vector, K items.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import NetworkConfig
from model.data.sequences import Windows
from model.data.training_set import TrainingSet
from model.network.block import Block
from model.network.domain_adapter import DomainAdapter, identity
from model.network.dropout import dropout
from model.network.item_vectors import ItemVectors
from model.network.profile import Profile
from model.network.recency_popularity import RecencyPopularity

ITEMS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Predictions:
    """Where predictions are made in a batch of windows, and of which domain's items."""

    batch_index: Tensor  # (P,) the window
    position: Tensor  # (P,) the last position in it that is read
    target_domain: Tensor  # (P,)


class Encoded(NamedTuple):
    """What the transformer makes of what predictions read."""

    shared: Tensor  # (P, D) the last state of the mixed sequence
    domain: Tensor  # (P, D) the last state of the items of the target's domain alone; anything where there is none
    is_empty: Tensor  # (P,) bool, where there is none


class Network(nn.Module):
    """Both phases. Phase 1 has no domain adapters; phase 2 freezes all but them."""

    def __init__(
        self, cfg: NetworkConfig, item_vectors: ItemVectors, recency: RecencyPopularity | None, profile_size: int,
        domains: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.cfg = cfg
        self.recency_popularity = recency
        self.item_vectors = item_vectors
        self.text_size = item_vectors.text.shape[1]
        self.positions = nn.Embedding(cfg.max_length, cfg.hidden)
        self.synthetic_mark = nn.Parameter(torch.zeros(cfg.hidden)) if cfg.mark_synthetic else None
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.blocks))
        self.norm = nn.LayerNorm(cfg.hidden)
        self.heads = nn.ModuleList(identity(cfg.hidden) for _ in range(domains if cfg.domain_heads else 0))
        self.profile = Profile(profile_size, cfg.hidden) if profile_size else None
        self.domain_adapters = nn.ModuleList()
        nn.init.normal_(self.positions.weight, std=0.02)

    def add_domain_adapters(self, domains: int, weight: float = 1.0, weight_learnt: bool = True) -> None:
        """Freeze phase 1 and add one adapter per domain, whose term starts with this weight."""
        self.requires_grad_(False)
        self.domain_adapters = nn.ModuleList(DomainAdapter(self.cfg, weight, weight_learnt) for _ in range(domains))

    def train(self, mode: bool = True) -> "Network":
        """Set the mode of what is trained; once there are domain adapters, phase 1 stays in evaluation mode."""
        super().train(mode)
        if len(self.domain_adapters):
            for name, module in self.named_children():
                module.train(mode and name == "domain_adapters")
        return self

    def encode(self, inputs: Tensor, windows: Windows) -> Tensor:
        """inputs: (B, L, D) item vectors of the windows. Returns the transformer's states (B, L, D)."""
        if self.cfg.item_dropout and self.blocks.training:
            kept = torch.rand(inputs.shape[:2], device=inputs.device) >= self.cfg.item_dropout  # (B, L)
            inputs = inputs * kept.unsqueeze(-1)
        if self.cfg.input_scaled:
            inputs = inputs * self.text_size**0.5
        states = inputs + self.positions(windows.position_ids)
        if self.synthetic_mark is not None:
            states = states + windows.synthetic.unsqueeze(-1) * self.synthetic_mark
        states = dropout(states, self.cfg.input_dropout if self.blocks.training else 0.0)
        for block in self.blocks:
            states = block(states)
        normed: Tensor = self.norm(states)
        return normed

    def domain_states(self, inputs: Tensor, windows: Windows, item_domains: Tensor, domains: Iterable[int]) -> Tensor:
        """Return (B, L, D): each item's state where the transformer reads the items of its own domain alone.

        inputs: (B, L, D) item vectors of the windows. item_domains: (B, L) the domain of each. The states of items that
        are of none of `domains` are zero.
        """
        states = torch.zeros_like(inputs)
        for domain in domains:
            is_domain = item_domains == domain  # (B, L)
            own_windows, order = domain_windows(windows, is_domain)
            own_inputs = inputs.gather(1, order.unsqueeze(-1).expand(-1, -1, inputs.shape[-1]))  # (B, M, D)
            own = self.encode(own_inputs, own_windows)  # (B, M, D)
            place = (is_domain.cumsum(1) - 1).clamp(min=0)  # (B, L) in the domain's sub-sequence
            own = own.gather(1, place.unsqueeze(-1).expand_as(inputs))  # (B, L, D)
            states = torch.where(is_domain.unsqueeze(-1), own, states)
        return states

    def encode_predictions(
        self, inputs: Tensor, windows: Windows, item_domains: Tensor, predictions: Predictions
    ) -> Encoded:
        """inputs: (B, L, D) item vectors of the windows. item_domains: (B, L) the domain of each."""
        index, domains = predictions.batch_index, len(self.domain_adapters)
        shared = gather_positions(self.encode(inputs, windows), index, predictions.position)  # (P, D)
        if not domains:
            return Encoded(shared, torch.zeros_like(shared), torch.ones_like(index, dtype=torch.bool))
        wanted = torch.unique(predictions.target_domain).tolist()
        states = self.domain_states(inputs, windows, item_domains, wanted)  # (B, L, D)
        last = last_of_domain(item_domains, predictions, domains)  # (P,)
        return Encoded(shared, gather_positions(states, index, last.clamp(min=0)), last < 0)

    def query(self, encoded: Encoded, target_domain: Tensor) -> Tensor:
        """Return (P, D): the vector whose products with a domain's items are their scores, shared and domain terms.

        target_domain: (P,).
        """
        return self.shared_query(encoded.shared, target_domain) + self.domain_query(encoded, target_domain)

    def shared_query(self, states: Tensor, target_domain: Tensor) -> Tensor:
        """states: (P, D) of the mixed sequences. target_domain: (P,). Returns (P, D), their part of each query."""
        query = states
        for domain, head in enumerate(self.heads):
            query = torch.where((target_domain == domain).unsqueeze(1), head(states), query)
        return self.scaled(query)

    def domain_query(self, encoded: Encoded, target_domain: Tensor) -> Tensor:
        """Return (P, D): the part of each query that its domain's adapter makes, zero where that read nothing."""
        query = torch.zeros_like(encoded.domain)
        for domain, adapter in enumerate(self.domain_adapters):
            mine = ((target_domain == domain) & ~encoded.is_empty).nonzero().squeeze(1)
            if len(mine):
                assert isinstance(adapter, DomainAdapter)
                term = adapter.weight * self.scaled(adapter(F.embedding(mine, encoded.domain)))
                query = query.index_add(0, mine, term.to(query.dtype))
        return query

    @torch.no_grad()
    def all_item_vectors(self) -> Tensor:
        """Return every item's vector as predictions see it, (items + 1, D), computed slice by slice."""
        numbers = torch.arange(len(self.item_vectors.has_text), device=self.positions.weight.device)
        was_training = self.training
        self.eval()
        vectors = torch.cat([self.item_vectors(part) for part in torch.split(numbers, ITEMS_AT_ONCE)])
        self.train(was_training)
        return vectors

    def scaled(self, vectors: Tensor) -> Tensor:
        """States and items as scores see them: unit vectors for cosines, unchanged for dot products."""
        return F.normalize(vectors, dim=-1) if self.cfg.score == "cosine" else vectors


def gather_positions(states: Tensor, batch_index: Tensor, position: Tensor) -> Tensor:
    """states: (B, L, D). batch_index, position: (P,). Returns (P, D)."""
    return F.embedding(batch_index * states.shape[1] + position, states.flatten(0, 1))


def last_of_domain(item_domains: Tensor, predictions: Predictions, domains: int) -> Tensor:
    """Return (P,) the position of the last item of the target's domain that each prediction reads; -1 without one.

    item_domains: (B, L).
    """
    position = torch.arange(item_domains.shape[1], device=item_domains.device)  # (L,)
    last = [torch.where(item_domains == domain, position, -1).cummax(1).values for domain in range(domains)]
    return torch.stack(last)[predictions.target_domain, predictions.batch_index, predictions.position]


def domain_windows(windows: Windows, is_domain: Tensor) -> tuple[Windows, Tensor]:
    """Return the windows of one domain's items alone, and where each stood, (B, M). is_domain: (B, L) bool."""
    count = is_domain.sum(1)  # (B,)
    place = torch.where(is_domain, is_domain.cumsum(1), count.unsqueeze(1) + (~is_domain).cumsum(1)) - 1  # (B, L)
    position = torch.arange(is_domain.shape[1], device=is_domain.device).expand_as(place)
    order = torch.zeros_like(place).scatter(1, place, position)  # (B, M) the domain's first; ONNX has no stable sort
    if not torch.compiler.is_exporting():  # else M stays L, for shapes must not depend on values
        order = order[:, : max(int(count.max()), 1)]
    own = is_domain.gather(1, order)
    synthetic = windows.synthetic.gather(1, order) & own
    position_ids = ((own & ~synthetic).cumsum(1) - 1).clamp(min=0)
    return Windows(windows.items.gather(1, order), position_ids, synthetic, count), order


def build_network(cfg: NetworkConfig, data: TrainingSet, profile_size: int) -> Network:
    """Return a new network for the items of a training set."""
    text, has_text = torch.tensor(data.item_vectors), torch.tensor(data.has_text)
    if cfg.text_centred and has_text.any():
        F.normalize(text.sub_(text.sum(0) / has_text.sum()), dim=-1, out=text)
        text[~has_text] = 0.0
    item_vectors = ItemVectors(text, has_text, torch.from_numpy(data.train_actions > 0), cfg)
    half_lives = cfg.recency_half_lives
    recency = RecencyPopularity.of(data, half_lives) if half_lives else None
    return Network(cfg, item_vectors, recency, profile_size, len(data.domains))


def weight_shapes(cfg: NetworkConfig, data: TrainingSet, profile_size: int, is_adapted: bool) -> dict[str, torch.Size]:
    """Return the name and shape of every weight of a network, which is not made: no memory is taken for any.

    is_adapted: with a domain adapter per domain, as in phase 2.
    """
    domains, (items, text_size) = len(data.domains), data.item_vectors.shape
    with torch.device("meta"):
        text, is_there = torch.empty((items, text_size)), torch.empty(items, dtype=torch.bool)
        counts = torch.empty((items, 2, len(cfg.recency_half_lives)))
        recency = RecencyPopularity(torch.empty(0), counts, domains, False) if cfg.recency_half_lives else None
        network = Network(cfg, ItemVectors(text, is_there, is_there, cfg), recency, profile_size, domains)
        if is_adapted:
            network.add_domain_adapters(domains)
    return {name: weight.shape for name, weight in network.state_dict().items()}
