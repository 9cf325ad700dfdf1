"""The network: item vectors, a causal transformer over the mixed sequence, and a reader per domain.

It is SASRec with the differences that `model/__init__.py` lists; phase 2 adds, per domain, a second reading of that
domain's items by the same, then frozen, transformer.

Letters used in this file: B sequences, L positions, D hidden size, T size of a text vector, P size of a profile vector,
K items, S profile scopes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.batches import Windows
from model.config import NetworkConfig
from model.data import TrainingSet
from model.dropout import causal_attention, dropout
from model.rows import LazyRows
from model.trends import Trends

ITEMS_AT_ONCE = 65_536


class ItemVectors(nn.Module):
    """An item's vector: its text, adapted, plus a vector of its own; either part can be switched off."""

    text: Tensor  # (items + 1, T)
    has_text: Tensor  # (items + 1,) bool
    trained: Tensor  # (items + 1,) bool, whether a training action chose the item

    def __init__(self, text: Tensor, has_text: Tensor, trained: Tensor, cfg: NetworkConfig) -> None:
        super().__init__()
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("has_text", has_text, persistent=False)
        self.register_buffer("trained", trained, persistent=False)
        self.adapter = Adapter(text.shape[1], cfg.hidden) if cfg.item_text else None
        self.ids = nn.Embedding(len(text), cfg.hidden) if cfg.item_id else None
        self.without_text = nn.Parameter(torch.zeros(cfg.hidden)) if cfg.item_text else None
        self.lazy: LazyRows | None = None
        """Who gives out rows of `ids` in training, if not autograd."""
        self.text_dropout = cfg.text_dropout
        if self.ids is not None:
            nn.init.normal_(self.ids.weight, std=(0.5 if cfg.item_text else 1.0) * cfg.hidden**-0.5)
        if self.without_text is not None:
            nn.init.normal_(self.without_text, std=cfg.hidden**-0.5)

    def forward(self, numbers: Tensor) -> Tensor:
        """numbers: (K,) item numbers. Returns (K, D).

        Beside texts the vector of its own is off for an item without a training action: nothing but chance and its use
        as a negative has moved it. An item that has neither part has a learned vector in common with all such items.
        """
        own: Tensor | None = None
        if self.ids is not None:
            own = self.lazy.take(numbers) if self.lazy and self.training else self.ids(numbers)  # (K, D)
        if self.adapter is None:
            assert own is not None
            return own
        assert self.without_text is not None
        shown = self.has_text[numbers][:, None]  # (K, 1) bool
        absent = self.without_text.expand(len(numbers), -1)  # (K, D)
        if own is not None:
            if self.training and self.text_dropout > 0:
                shown = shown & (torch.rand_like(shown, dtype=torch.float32) >= self.text_dropout)
            trained = self.trained[numbers][:, None]
            own, absent = own * trained, absent * ~trained
        adapted = torch.where(shown, self.adapter(self.text[numbers]), absent)  # (K, D)
        return adapted if own is None else own + adapted


class Adapter(nn.Module):
    """Bring a text's vector to the network's size."""

    def __init__(self, text_size: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(text_size, hidden)
        nn.init.normal_(self.up.weight, std=hidden**-0.5)  # a unit vector comes out with a length near 1

    def forward(self, text: Tensor) -> Tensor:
        """text: (..., T). Returns (..., D)."""
        adapted: Tensor = self.up(text)
        return adapted


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


class DomainReader(nn.Module):
    """What phase 2 trains for one domain: positions, a residual bottleneck adapter, a head and its weight in the score.

    The adapter corrects what the frozen transformer makes of the domain's sub-sequence; as its up-projection starts at
    zero and the head at the identity, a reader starts as the transformer's own reading.
    """

    def __init__(self, cfg: NetworkConfig, weight: float, weight_learnt: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight), requires_grad=weight_learnt)
        self.positions = nn.Embedding(cfg.max_length, cfg.hidden)
        self.down = nn.Linear(cfg.hidden, cfg.bottleneck)
        self.up = nn.Linear(cfg.bottleneck, cfg.hidden)
        self.head = _identity(cfg.hidden)
        self.dropout = cfg.bottleneck_dropout
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """states: (..., D) of the frozen transformer. Returns (..., D)."""
        adapted = states + dropout(self.up(F.gelu(self.down(states))), self.dropout if self.training else 0.0)
        read: Tensor = self.head(adapted)
        return read


class Profile(nn.Module):
    """A user's profile vector in the network's space: one scope, or a learned mix of several."""

    def __init__(self, profile_size: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(profile_size, 1)
        self.adapter = Adapter(profile_size, hidden)

    def forward(self, vectors: Tensor, present: Tensor) -> Tensor:
        """vectors: (B, S, P). present: (B, S) bool, at least one True per row. Returns (B, D)."""
        if vectors.shape[1] == 1:
            mixed = vectors[:, 0]
        else:
            weight = self.gate(vectors).squeeze(-1).masked_fill(~present, -torch.inf).softmax(dim=1)  # (B, S)
            mixed = (weight.unsqueeze(-1) * vectors).sum(1)  # (B, P)
        adapted: Tensor = self.adapter(mixed)
        return adapted


class Network(nn.Module):
    """Both phases. Phase 1 has no domain readers; phase 2 freezes all but them."""

    def __init__(
        self,
        cfg: NetworkConfig,
        text: Tensor,
        has_text: Tensor,
        trained: Tensor,
        profile_size: int,
        domains: int,
        trends: Trends | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.trends = trends
        self.item_vectors = ItemVectors(text, has_text, trained, cfg)
        self.positions = nn.Embedding(cfg.max_length, cfg.hidden)
        self.synthetic_mark = nn.Parameter(torch.zeros(cfg.hidden)) if cfg.mark_synthetic else None
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.blocks))
        self.norm = nn.LayerNorm(cfg.hidden)
        self.heads = nn.ModuleList(_identity(cfg.hidden) for _ in range(domains if cfg.domain_heads else 0))
        self.profile = Profile(profile_size, cfg.hidden) if profile_size else None
        self.readers = nn.ModuleList()
        nn.init.normal_(self.positions.weight, std=0.02)

    def add_readers(self, domains: int, weight: float = 1.0, weight_learnt: bool = True) -> None:
        """Freeze phase 1 and add one reader per domain, which starts from phase 1's positions and this weight."""
        self.requires_grad_(False)
        self.readers = nn.ModuleList(DomainReader(self.cfg, weight, weight_learnt) for _ in range(domains))
        for reader in self.readers:
            reader.positions.load_state_dict(self.positions.state_dict())  # type: ignore[union-attr]

    def train(self, mode: bool = True) -> "Network":
        """Set the mode of what is trained; once there are readers, phase 1 stays in evaluation mode."""
        super().train(mode)
        if len(self.readers):
            for name, module in self.named_children():
                module.train(mode and name == "readers")
        return self

    def read(self, inputs: Tensor, windows: Windows, positions: nn.Embedding) -> Tensor:
        """inputs: (B, L, D) item vectors of the windows. Returns the transformer's states (B, L, D)."""
        if self.cfg.item_dropout and self.blocks.training:
            kept = torch.rand(inputs.shape[:2], device=inputs.device) >= self.cfg.item_dropout  # (B, L)
            inputs = inputs * kept.unsqueeze(-1)
        states = inputs + positions(windows.places)
        if self.synthetic_mark is not None:
            states = states + windows.synthetic.unsqueeze(-1) * self.synthetic_mark
        states = dropout(states, self.cfg.input_dropout if self.blocks.training else 0.0)
        for block in self.blocks:
            states = block(states)
        normed: Tensor = self.norm(states)
        return normed

    def query(
        self, inputs: Tensor, windows: Windows, domains: Tensor, row: Tensor, step: Tensor, wanted: Tensor, shared: bool
    ) -> Tensor:
        """Return (P, D): the vector whose products with a domain's items are their scores, per prediction.

        inputs: (B, L, D). domains: (B, L) domain of each position's item. row, step: (P,) the last position that a
        prediction reads. wanted: (P,) the domain to score. shared: whether the reading of the mixed sequence counts.
        """
        query = inputs.new_zeros((len(row), inputs.shape[-1]))
        if shared:
            states = at_steps(self.read(inputs, windows, self.positions), row, step)  # (P, D)
            query = query + self.scaled(self.by_domain(states, wanted))
        for number, reader in enumerate(self.readers):
            mine = (wanted == number).nonzero().squeeze(1)
            if len(mine):
                assert isinstance(reader, DomainReader)
                term = self._domain_term(reader, inputs, windows, domains == number, row[mine], step[mine])
                query = query.index_add(0, mine, term.to(query.dtype))
        return query

    def by_domain(self, states: Tensor, wanted: Tensor) -> Tensor:
        """Apply the head of each prediction's domain. states: (P, D). wanted: (P,). Returns (P, D)."""
        query = states
        for number, head in enumerate(self.heads):
            query = torch.where((wanted == number).unsqueeze(1), head(states), query)
        return query

    def _domain_term(
        self, reader: DomainReader, inputs: Tensor, windows: Windows, is_domain: Tensor, row: Tensor, step: Tensor
    ) -> Tensor:
        """Read one domain's items of the windows, (B, L) bool. Returns (P, D), zero where none came before."""
        count = is_domain.cumsum(1)  # (B, L)
        longest = max(int(count[:, -1].max()), 1)
        order = torch.argsort(~is_domain, dim=1, stable=True)[:, :longest]  # (B, M) the domain's positions first
        own = is_domain.gather(1, order)
        synthetic = windows.synthetic.gather(1, order) & own
        places = ((own & ~synthetic).cumsum(1) - 1).clamp(min=0)
        part = Windows(windows.items.gather(1, order), places, synthetic, count[:, -1])
        part_inputs = inputs.gather(1, order.unsqueeze(-1).expand(-1, -1, inputs.shape[-1]))  # (B, M, D)
        states = self.read(part_inputs, part, reader.positions)  # (B, M, D)
        seen = count[row, step]  # (P,)
        read: Tensor = reader(at_steps(states, row, (seen - 1).clamp(min=0)))
        return (reader.weight * self.scaled(read)).masked_fill((seen == 0).unsqueeze(-1), 0.0)

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


def at_steps(states: Tensor, row: Tensor, step: Tensor) -> Tensor:
    """states: (B, L, D). row, step: (P,). Returns (P, D)."""
    return F.embedding(row * states.shape[1] + step, states.flatten(0, 1))


def build_network(cfg: NetworkConfig, data: TrainingSet, profile_size: int) -> Network:
    """Return a new network for the items of a training set."""
    text, has_text = torch.tensor(data.item_vectors), torch.tensor(data.has_text)
    if cfg.text_centred and has_text.any():
        F.normalize(text.sub_(text.sum(0) / has_text.sum()), dim=-1, out=text)
        text[~has_text] = 0.0
    trained = torch.from_numpy(data.train_actions > 0)
    trends = Trends(data, cfg.trends) if cfg.trends else None
    return Network(cfg, text, has_text, trained, profile_size, len(data.domains), trends)


def _identity(hidden: int) -> nn.Linear:
    """Return a linear map that starts as the identity."""
    linear = nn.Linear(hidden, hidden)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
