"""The network as a function of histories alone, which torch.export and ONNX can carry to where this package is not.

Letters used in this file: B histories, L positions, M items of the domain, D hidden size.
"""

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.data.sequences import Windows
from model.evaluation.scoring import NetworkScorer
from model.network.domain_adapter import DomainAdapter
from model.network.network import gather_positions


class HistoryScorer(nn.Module):
    """Scores of all items of one domain, now, for histories of real items."""

    vectors: Tensor  # (items + 1, D)
    item_domain: Tensor  # (items + 1,)
    keys: Tensor  # (M, D)
    popularity: Tensor  # (M,)

    def __init__(self, scorer: NetworkScorer, domain: str) -> None:
        super().__init__()
        self.domain = scorer.data.domains.index(domain)
        self.network = copy.deepcopy(scorer.network)
        for part in ("item_vectors", "recency_popularity", "profile"):  # what they give is in the buffers below
            setattr(self.network, part, None)
        items = torch.from_numpy(scorer.data.domain_items[self.domain]).to(scorer.device)
        recency = scorer.network.recency_popularity
        popularity = scorer.vectors.new_zeros(len(items))
        if recency is not None:
            popularity = recency(items, self.domain)[recency.now].detach().clone()
        self.register_buffer("vectors", scorer.vectors)
        self.register_buffer("item_domain", scorer.item_domain)
        self.register_buffer("keys", scorer.network.scaled(scorer.vectors[items]))
        self.register_buffer("popularity", popularity)

    def forward(self, items: Tensor) -> Tensor:
        """items: (B, L) item numbers, oldest first, 0 on the right where a history is shorter. Returns (B, M)."""
        network = self.network
        is_pad = items == 0
        lengths = (~is_pad).sum(1)
        position_ids = torch.arange(items.shape[1], device=items.device).masked_fill(is_pad, 0)  # (B, L)
        windows = Windows(items, position_ids, torch.zeros_like(is_pad), lengths)
        inputs = self.vectors[items]  # (B, L, D)
        index = torch.arange(items.shape[0], device=items.device)
        last, target = (lengths - 1).clamp(min=0), torch.full_like(index, self.domain)
        states = network.encode(inputs, windows)  # (B, L, D)
        query = network.shared_query(gather_positions(states, index, last), target)  # (B, D)
        if len(network.domain_adapters):
            adapter = network.domain_adapters[self.domain]
            assert isinstance(adapter, DomainAdapter)
            item_domains = self.item_domain[items]
            own = network.domain_states(inputs, windows, item_domains, [self.domain])  # (B, L, D)
            place = torch.arange(items.shape[1], device=items.device)  # (L,)
            last = torch.where(item_domains == self.domain, place, -1).amax(1)  # (B,) -1 without an item of the domain
            term = adapter.weight * network.scaled(adapter(gather_positions(own, index, last.clamp(min=0))))
            query = query + term.masked_fill((last < 0).unsqueeze(1), 0.0)
        query = query.masked_fill((lengths == 0).unsqueeze(1), 0.0)
        return (query @ self.keys.T + self.popularity) / network.cfg.temperature


def export_scorer(scorer: NetworkScorer, domain: str, path: Path) -> None:
    """Write a program of torch.export (.pt2) that takes histories (B, max_length) of any B and returns (B, M)."""
    module, example, shapes = _to_export(scorer, domain)
    program = torch.export.export(module, (example,), dynamic_shapes=shapes)
    program.example_inputs = None  # else it is kept, pickled
    torch.export.save(program, path)


def export_onnx(scorer: NetworkScorer, domain: str, path: Path) -> None:
    """Write the same program as ONNX, of the input `items` and the output `scores`; needs onnx and onnxscript."""
    module, example, shapes = _to_export(scorer, domain)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names operators of packages that are not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own
        program = torch.onnx.export(
            module, (example,), dynamo=True, dynamic_shapes=shapes, input_names=["items"], output_names=["scores"],
            verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(path)


def _to_export(scorer: NetworkScorer, domain: str) -> tuple[HistoryScorer, Tensor, dict[str, dict[int, Any]]]:
    """Return the function, an example of what it reads, and which of its sizes may be any."""
    example = torch.zeros((2, scorer.network.cfg.max_length), dtype=torch.int64, device=scorer.device)
    example[:, 0] = 1
    return HistoryScorer(scorer, domain).eval(), example, {"items": {0: torch.export.Dim("batch", min=1)}}
