"""The network: a causal transformer over the mixed sequence, shared by all domains, and an adapter per domain.

It is SASRec with the differences that `model/__init__.py` lists. Phase 2 adds, per domain, a second reading of that
domain's items by the same, then frozen, transformer.

Letters used in this file: B sequences, L positions, M positions of one domain, P predictions, D hidden size, T size of
a text vector, K items.
"""

from dataclasses import dataclass

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

    def __getitem__(self, which: Tensor) -> "Predictions":
        return Predictions(self.batch_index[which], self.position[which], self.target_domain[which])


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
        self.positions = nn.Embedding(cfg.max_length, cfg.hidden)
        self.synthetic_mark = nn.Parameter(torch.zeros(cfg.hidden)) if cfg.mark_synthetic else None
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.blocks))
        self.norm = nn.LayerNorm(cfg.hidden)
        self.heads = nn.ModuleList(identity(cfg.hidden) for _ in range(domains if cfg.domain_heads else 0))
        self.profile = Profile(profile_size, cfg.hidden) if profile_size else None
        self.domain_adapters = nn.ModuleList()
        nn.init.normal_(self.positions.weight, std=0.02)

    def add_domain_adapters(self, domains: int, weight: float = 1.0, weight_learnt: bool = True) -> None:
        """Freeze phase 1 and add one adapter per domain, which starts from phase 1's positions and this weight."""
        self.requires_grad_(False)
        self.domain_adapters = nn.ModuleList(DomainAdapter(self.cfg, weight, weight_learnt) for _ in range(domains))
        for adapter in self.domain_adapters:
            adapter.positions.load_state_dict(self.positions.state_dict())  # type: ignore[union-attr]

    def train(self, mode: bool = True) -> "Network":
        """Set the mode of what is trained; once there are domain adapters, phase 1 stays in evaluation mode."""
        super().train(mode)
        if len(self.domain_adapters):
            for name, module in self.named_children():
                module.train(mode and name == "domain_adapters")
        return self

    def encode(self, inputs: Tensor, windows: Windows, positions: nn.Embedding) -> Tensor:
        """inputs: (B, L, D) item vectors of the windows. Returns the transformer's states (B, L, D)."""
        if self.cfg.item_dropout and self.blocks.training:
            kept = torch.rand(inputs.shape[:2], device=inputs.device) >= self.cfg.item_dropout  # (B, L)
            inputs = inputs * kept.unsqueeze(-1)
        if self.cfg.input_scaled:
            inputs = inputs * self.item_vectors.text.shape[1] ** 0.5
        states = inputs + positions(windows.position_ids)
        if self.synthetic_mark is not None:
            states = states + windows.synthetic.unsqueeze(-1) * self.synthetic_mark
        states = dropout(states, self.cfg.input_dropout if self.blocks.training else 0.0)
        for block in self.blocks:
            states = block(states)
        normed: Tensor = self.norm(states)
        return normed

    def query(self, inputs: Tensor, windows: Windows, item_domains: Tensor, predictions: Predictions) -> Tensor:
        """Return (P, D): the vector whose products with a domain's items are their scores, shared and domain terms.

        inputs: (B, L, D) item vectors of the windows. item_domains: (B, L) the domain of each.
        """
        shared = self.shared_query(self.encode(inputs, windows, self.positions), predictions)
        return shared + self.domain_query(inputs, windows, item_domains, predictions)

    def shared_query(self, states: Tensor, predictions: Predictions) -> Tensor:
        """states: (B, L, D) of the mixed sequences. Returns (P, D), their part of each query."""
        states = gather_positions(states, predictions.batch_index, predictions.position)  # (P, D)
        query = states
        for domain, head in enumerate(self.heads):
            query = torch.where((predictions.target_domain == domain).unsqueeze(1), head(states), query)
        return self.scaled(query)

    def domain_query(self, inputs: Tensor, windows: Windows, item_domains: Tensor, predictions: Predictions) -> Tensor:
        """Return (P, D): the part of each query that its domain's adapter makes; zero without adapters.

        inputs: (B, L, D) item vectors of the windows. item_domains: (B, L) the domain of each.
        """
        query = inputs.new_zeros((len(predictions.position), inputs.shape[-1]))
        for domain, adapter in enumerate(self.domain_adapters):
            mine = (predictions.target_domain == domain).nonzero().squeeze(1)
            if len(mine):
                assert isinstance(adapter, DomainAdapter)
                term = self._domain_term(adapter, inputs, windows, item_domains == domain, predictions[mine])
                query = query.index_add(0, mine, term.to(query.dtype))
        return query

    def _domain_term(
        self, adapter: DomainAdapter, inputs: Tensor, windows: Windows, is_domain: Tensor, predictions: Predictions
    ) -> Tensor:
        """Read one domain's items of the windows, (B, L) bool. Returns (P, D), zero where none came before."""
        count = is_domain.cumsum(1)  # (B, L)
        own_windows, order = domain_windows(windows, is_domain)
        own_inputs = inputs.gather(1, order.unsqueeze(-1).expand(-1, -1, inputs.shape[-1]))  # (B, M, D)
        states = self.encode(own_inputs, own_windows, adapter.positions)  # (B, M, D)
        seen = count[predictions.batch_index, predictions.position]  # (P,)
        query = adapter(gather_positions(states, predictions.batch_index, (seen - 1).clamp(min=0)))
        return (adapter.weight * self.scaled(query)).masked_fill((seen == 0).unsqueeze(-1), 0.0)

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


def domain_windows(windows: Windows, is_domain: Tensor) -> tuple[Windows, Tensor]:
    """Return the windows of one domain's items alone, and where each stood, (B, M). is_domain: (B, L) bool."""
    count = is_domain.sum(1)  # (B,)
    order = torch.argsort(~is_domain, dim=1, stable=True)[:, : max(int(count.max()), 1)]  # (B, M) the domain's first
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
    recency = RecencyPopularity(data, half_lives) if half_lives else None
    return Network(cfg, item_vectors, recency, profile_size, len(data.domains))
