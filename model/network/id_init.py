"""The initial id vectors: a factorisation of which items stand near each other in training histories.

The rows of a truncated factorisation of the positive log-association of item pairs are what skip-gram learns (Levy and
Goldberg, 2014). Starting there instead of at random, the trainer need not learn from single targets what the counts of
neighbours already say.

Letters used in this file: n items, D size of a vector, E actions, K pairs.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import parallel
from model.data.training_set import TrainingSet

WINDOW = 5
"""Actions on either side that count as near; one at distance k counts 1 / k."""

ACTIONS = 2_000_000
"""Training actions that are looked at, about at most: larger data is sampled by user."""

ROUNDS = 8
"""Rounds of subspace iteration (Halko, Martinsson and Tropp, 2011)."""

EXTRA = 16
"""Dimensions of the iterated subspace beyond D."""

LENGTH = 0.5
"""Of an initial id vector, where a text part beside it has a length near 1."""


@torch.no_grad()
def init_ids(ids: nn.Embedding, data: TrainingSet, seed: int) -> None:
    """Overwrite the vectors of `ids`, alike in all processes."""
    if parallel.rank() == 0:
        ids.weight.copy_(LENGTH * cooccurrence_vectors(data, ids.embedding_dim, seed))
    parallel.broadcast(ids.weight)


def cooccurrence_vectors(data: TrainingSet, size: int, seed: int) -> Tensor:
    """Return (n + 1, D) vectors of length 1; zero for padding and for items without a neighbour.

    Only real training actions are read. Items that stand near the same items are alike.
    """
    association = _association(*_pairs(data, seed), data.n_items + 1)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn((data.n_items + 1, size + EXTRA), generator=generator)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(association @ basis).Q
    values, rotation = torch.linalg.eigh(basis.T @ (association @ basis))  # of a symmetric matrix, rising
    largest = values.abs().argsort(descending=True)[:size]
    found = F.normalize((basis @ rotation[:, largest]) * values[largest].abs().sqrt(), dim=1)
    found = F.pad(found, (0, size - found.shape[1]))
    mixed = torch.linalg.qr(torch.randn((size, size), generator=generator)).Q  # no dimension says more than another
    near = association.sum(1).to_dense() > 0
    return torch.where(near[:, None], found @ mixed, 0.0)


def _pairs(data: TrainingSet, seed: int) -> tuple[Tensor, Tensor]:
    """Return pairs of items that stand near each other, (2, K) in both orders, and the weight of each, (K,)."""
    users = np.arange(data.n_users)
    if (total := int(data.train_end.sum())) > ACTIONS:
        users = users[np.random.default_rng(seed).random(data.n_users) < ACTIONS / total]
    ends = data.train_end[users]
    owners = np.repeat(np.arange(len(users)), ends)  # (E,)
    position = np.arange(len(owners)) - np.repeat(ends.cumsum() - ends, ends)
    flat = data.offsets[users][owners] + position
    real = ~data.synthetic[flat]
    items = torch.from_numpy(data.items[flat[real]].astype(np.int64))
    owner = torch.from_numpy(owners[real])
    pairs, weights = [], []
    for distance in range(1, WINDOW + 1):
        same = owner[distance:] == owner[:-distance]
        left, right = items[:-distance][same], items[distance:][same]
        pairs += [torch.stack([left, right]), torch.stack([right, left])]
        weights.append(torch.full((2 * len(left),), 1.0 / distance))
    return torch.cat(pairs, dim=1), torch.cat(weights)


def _association(pairs: Tensor, weights: Tensor, height: int) -> Tensor:
    """Return the sparse (height, height) matrix log(1 + observed / expected) of the pairs."""
    counts = torch.sparse_coo_tensor(pairs, weights, (height, height), check_invariants=False).coalesce()
    row, column = counts.indices()
    totals = torch.zeros(height).index_add(0, row, counts.values())  # (height,)
    ratio = counts.values() * totals.sum() / (totals[row] * totals[column])
    return torch.sparse_coo_tensor(counts.indices(), ratio.log1p(), (height, height), check_invariants=False).coalesce()
