"""Scores of all items of a domain, for users as they stood at a point of their history."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_lake.errors import UserError
from model.batches import Sequences
from model.checkpoint import MODEL, Folder, load_tensors
from model.config import NetworkConfig
from model.data import TrainingSet
from model.network import Network, build_network

CPU = torch.device("cpu")


class Scorer(Protocol):
    """Score every item of one domain."""

    def __call__(self, users: NDArray[np.int64], cuts: NDArray[np.int64], domain: str) -> Tensor:
        """users, cuts: (B,) rows of the training set and positions in them. Returns (B, items of domain) float32.

        Row b reads what stands strictly before position cuts[b] of the stored sequence of users[b], synthetic
        positions included. Columns follow `TrainingSet.domain_items` of the domain.
        """
        ...


class NetworkScorer:
    """Scores of a network as it stands: make a new one after its weights change."""

    def __init__(self, network: Network, data: TrainingSet, sequences: Sequences) -> None:
        self.network, self.data, self.sequences = network, data, sequences
        self.device = network.positions.weight.device
        self.vectors = network.all_item_vectors()  # (items + 1, D)
        self.item_domain = torch.from_numpy(data.item_domain.astype(np.int64)).to(self.device)
        self.domain: int | None = None  # whose items stand in the next two
        self.keys: Tensor  # (M, D) as scores see them
        self.lately: Tensor | None  # (T, M) what each moment adds to them

    @torch.no_grad()
    def __call__(self, users: NDArray[np.int64], cuts: NDArray[np.int64], domain: str) -> Tensor:
        self.network.eval()
        number = self.data.domains.index(domain)
        windows, _ = self.sequences.windows(self._tensor(users), self._tensor(cuts))
        inputs, domains = self.vectors[windows.items], self.item_domain[windows.items]  # (B, L, D), (B, L)
        row = torch.arange(len(users), device=self.device)
        last = (windows.lengths - 1).clamp(min=0)
        query = self.network.query(inputs, windows, domains, row, last, torch.full_like(row, number), True)  # (B, D)
        query = query.masked_fill((windows.lengths == 0).unsqueeze(1), 0.0)
        if self.domain != number:  # blocks come domain by domain
            items = self._tensor(self.data.domain_items[number])  # (M,)
            self.domain, self.keys = number, self.network.scaled(self.vectors[items])
            self.lately = self.network.trends(items, number) if self.network.trends is not None else None
        scores = query @ self.keys.T  # (B, M)
        if self.lately is not None:
            assert self.network.trends is not None
            scores += self.lately[self.network.trends.moments_of(self.data, users, cuts)]
        return scores.div_(self.network.cfg.temperature)

    def _tensor(self, numbers: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.device)


def load_scorer(folder: str | Path, data: TrainingSet, device: torch.device = CPU) -> NetworkScorer:
    """Read the best weights of a run's phase folder (OUT/pretrained or OUT/checkpoint)."""
    folder = Path(folder)
    if not (folder / MODEL).is_file():
        raise UserError(f"{folder} holds no {MODEL}. Run `python -m model train` first.")
    about = Folder(folder).config()
    check_shape(about, data, folder)
    cfg = NetworkConfig.model_validate(about["train"]["network"])
    network = build_network(cfg, data, about["profile_size"])
    if about["phase"] == "finetune":
        network.add_readers(len(data.domains))
    network.load_state_dict(load_tensors(folder / MODEL))
    network.to(device).eval()
    return NetworkScorer(network, data, Sequences(data, cfg.max_length, device))


def check_shape(about: Mapping[str, Any], data: TrainingSet, folder: Path) -> None:
    """Refuse weights that were trained for other items or domains; `about` is the folder's config.json."""
    shape = {"domains": list(data.domains), "items": data.n_items, "text_size": data.item_vectors.shape[1]}
    for name, value in shape.items():
        if about[name] != value:
            raise UserError(f"{folder} was trained with {name} = {about[name]}, the data has {value}. Train again.")
    if about.get("catalogue") != data.catalogue:  # an earlier version did not write it
        raise UserError(f"{folder} was trained with other items than those of the data. Train again.")
