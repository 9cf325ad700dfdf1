"""Scores of all items of a domain, for users as they stood at a point of their history.

Letters used in this file: B users, L positions, M items of a domain, T time bins, D hidden size.
"""

from copy import copy
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_lake.errors import UserError
from model.checkpoint import MODEL, About, PhaseCheckpoint, check_weights
from model.data.sequences import Sequences
from model.data.training_set import TrainingSet
from model.network.network import Encoded, Network, Predictions, build_network, weight_shapes

CPU = torch.device("cpu")


class Scorer(Protocol):
    """Score every item of one domain."""

    def __call__(self, users: NDArray[np.int64], prefix_lengths: NDArray[np.int64], domain: str) -> Tensor:
        """users, prefix_lengths: (B,) rows of the training set and how much of each is read. Returns (B, M) float32.

        Row b reads the first prefix_lengths[b] positions of the stored sequence of users[b], synthetic ones included.
        Columns follow `TrainingSet.domain_items` of the domain.
        """
        ...


class NetworkScorer:
    """Scores of a network as it stands: make a new one after its weights change."""

    def __init__(
        self, network: Network, data: TrainingSet, sequences: Sequences, held: dict[bytes, Encoded] | None = None
    ) -> None:
        """held: what earlier scorers over the same frozen transformer made of the rows of each call, to be kept."""
        self.network, self.data, self.sequences, self.held = network, data, sequences, held
        self.device = network.positions.weight.device
        self.vectors = network.all_item_vectors()  # (items + 1, D)
        self.item_domain = torch.from_numpy(data.item_domain.astype(np.int64)).to(self.device)
        self.domain: int | None = None  # whose items stand in the next two
        self.keys: Tensor  # (M, D) as scores see them
        self.popularity: Tensor | None  # (T, M) what each time bin adds to their scores

    def for_users(self, data: TrainingSet) -> "NetworkScorer":
        """Return a scorer of the users of another training set of the same items."""
        other = copy(self)
        other.data, other.sequences = data, Sequences(data, self.sequences.max_length, self.device)
        other.held = None
        return other

    @torch.no_grad()
    def __call__(self, users: NDArray[np.int64], prefix_lengths: NDArray[np.int64], domain: str) -> Tensor:
        self._open(domain)
        scores = self.queries(users, prefix_lengths, domain) @ self.keys.T  # (B, M)
        if self.popularity is not None:
            scores += self._popularity(self.popularity, users, prefix_lengths)
        return scores.div_(self.network.cfg.temperature)

    @torch.no_grad()
    def parts(self, users: NDArray[np.int64], prefix_lengths: NDArray[np.int64], domain: str) -> dict[str, Tensor]:
        """Return what each score is the sum of, by name, each (B, M) as the scores are.

        "shared" is of the whole history, "domain" of the domain's own items in it, "recent popularity" of no history.
        """
        self._open(domain)
        shared, own = self._both_queries(users, prefix_lengths, domain)
        found = {"shared": shared @ self.keys.T, "domain": own @ self.keys.T}
        found["recent popularity"] = torch.zeros_like(found["shared"])
        if self.popularity is not None:
            found["recent popularity"] += self._popularity(self.popularity, users, prefix_lengths)
        return {name: part.div_(self.network.cfg.temperature) for name, part in found.items()}

    def _open(self, domain: str) -> None:
        """Make ready the items of a domain, unless they are; blocks come domain by domain."""
        number, recency = self.data.domains.index(domain), self.network.recency_popularity
        if self.domain != number:
            items = self._tensor(self.data.domain_items[number])  # (M,)
            self.domain, self.keys = number, self.network.scaled(self.vectors[items])
            self.popularity = recency(items, number) if recency is not None else None

    def _popularity(self, popularity: Tensor, users: NDArray[np.int64], prefix_lengths: NDArray[np.int64]) -> Tensor:
        """popularity: (T, M). Returns (B, M), or (1, M) where one time bin is everybody's, as it is for now."""
        recency = self.network.recency_popularity
        assert recency is not None
        bins = recency.scoring_time_bins(self.data, users, prefix_lengths)  # (B,)
        return popularity[bins[:1] if bool((bins == bins[:1]).all()) else bins]

    @torch.no_grad()
    def queries(self, users: NDArray[np.int64], prefix_lengths: NDArray[np.int64], domain: str) -> Tensor:
        """Return (B, D): the vectors whose products with a domain's items are their scores, but for popularity.

        Zero where nothing is read.
        """
        shared, own = self._both_queries(users, prefix_lengths, domain)
        return shared + own

    def _both_queries(
        self, users: NDArray[np.int64], prefix_lengths: NDArray[np.int64], domain: str
    ) -> tuple[Tensor, Tensor]:
        """Return the shared and the domain term of each query, (B, D) both."""
        self.network.eval()
        if not prefix_lengths.any():
            return (self.vectors.new_zeros((len(users), self.vectors.shape[1])),) * 2
        number = self.data.domains.index(domain)
        encoded = self._encode(users, prefix_lengths, number)
        target = torch.full(encoded.is_empty.shape, number, device=self.device)
        is_empty = self._tensor(prefix_lengths == 0).unsqueeze(1)  # (B, 1)
        shared, own = self.network.shared_query(encoded.shared, target), self.network.domain_query(encoded, target)
        return shared.masked_fill(is_empty, 0.0), own.masked_fill(is_empty, 0.0)

    def _encode(self, users: NDArray[np.int64], prefix_lengths: NDArray[np.int64], domain: int) -> Encoded:
        """Return what the transformer makes of each prefix (B,) before an item of the domain."""
        if self.held is None:
            return self._encode_anew(users, prefix_lengths, domain)
        call = np.concatenate([[domain], users, prefix_lengths]).tobytes()
        if call not in self.held:
            self.held[call] = self._encode_anew(users, prefix_lengths, domain)
        return self.held[call]

    def _encode_anew(self, users: NDArray[np.int64], prefix_lengths: NDArray[np.int64], domain: int) -> Encoded:
        windows, _ = self.sequences.windows(self._tensor(users), self._tensor(prefix_lengths))
        inputs, item_domains = self.vectors[windows.items], self.item_domain[windows.items]  # (B, L, D), (B, L)
        index, last = torch.arange(len(users), device=self.device), (windows.lengths - 1).clamp(min=0)
        predictions = Predictions(index, last, torch.full_like(index, domain))
        return self.network.encode_predictions(inputs, windows, item_domains, predictions)

    def _tensor(self, numbers: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.device)


def load_scorer(folder: str | Path, data: TrainingSet, device: torch.device = CPU) -> NetworkScorer:
    """Read the best weights of a run's phase folder (OUT/pretrained or OUT/checkpoint)."""
    folder = Path(folder)
    if not (folder / MODEL).is_file():
        raise UserError(f"{folder} holds no {MODEL}. Run `python -m model train` first.")
    checkpoint = PhaseCheckpoint(folder)
    about = checkpoint.about()
    check_shape(about, data, folder)
    cfg, is_adapted = about.train.network, about.phase == "finetune"
    check_weights(folder / MODEL, weight_shapes(cfg, data, about.profile_size, is_adapted))
    network = build_network(cfg, data, about.profile_size)
    if is_adapted:
        network.add_domain_adapters(len(data.domains))
    checkpoint.load_best(network)
    network.to(device).eval()
    return NetworkScorer(network, data, Sequences(data, cfg.max_length, device))


def check_shape(about: About, data: TrainingSet, folder: Path) -> None:
    """Refuse weights that were trained for other items or domains; `about` is what the folder's config.json says."""
    for name, held, value in (
        ("domains", list(about.domains), list(data.domains)),
        ("items", about.items, data.n_items),
        ("text_size", about.text_size, data.item_vectors.shape[1]),
    ):
        if held != value:
            raise UserError(f"{folder} was trained with {name} = {held}, the data has {value}. Train again.")
    if about.catalogue != data.catalogue:
        raise UserError(f"{folder} was trained with other items than those of the data. Train again.")
