"""Which users train together: one epoch's batches."""

import numpy as np
from numpy.typing import NDArray

from model.data.training_set import Ints, TrainingSet

BUCKET_BATCHES = 32
"""Batches whose users are sorted by length together: more waste less padding, fewer mix lengths better."""


def trainable_users(data: TrainingSet) -> Ints:
    """Rows of the users with at least two real training actions: one to read, one to predict."""
    ends = data.offsets[:-1] + data.train_end
    return np.flatnonzero(data.real_before[ends] - data.real_before[data.offsets[:-1]] >= 2)


def epoch_batches(users: Ints, lengths: Ints, batch_size: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Return one epoch's batches of users: shuffled, users of similar length together, batches in random order."""
    rng = np.random.default_rng(seed)
    users = rng.permutation(users)
    group = np.arange(len(users)) // (batch_size * BUCKET_BATCHES)
    users = users[np.lexsort((lengths[users], group))]
    batches = np.array_split(users, max(1, len(users) // batch_size))
    return [batches[i] for i in rng.permutation(len(batches))]
