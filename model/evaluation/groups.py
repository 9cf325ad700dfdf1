"""The groups of users that metrics are reported for.

Everything is told by real training actions, of a query, which has none, by those before the target; only the two times
compared by "same-time" are the target's own.
"""

import numpy as np
from numpy.typing import NDArray

from data_lake.schemas import ALL, SPLITS, TRAIN
from model.data.training_set import USERS_AT_ONCE, TrainingSet
from model.evaluation.candidates import Targets

HEAD_PART = 5
"""The head is one item in so many."""

Mask = NDArray[np.bool_]


def groups(data: TrainingSet, targets: Targets) -> dict[str, Mask]:
    """Return which of the targets (T,) are in each group, by its name.

    imbalance: share of the largest domain in the user's training actions (a query's: the actions before the target).
    scarce-domain: the target's domain is the one, or one of those, with the fewest of them, and not all have as many.
    length: number of the user's training actions.
    popularity: training actions of the target's item; "head" is the most popular fifth of its domain's trained items
        (without those that tie with the first item outside it).
    text, no-text: whether the target's item has a text.
    cold: its item has a text and no training action, so that it is ranked by its text alone.
    same-time: the target shares its time with the real action before it, so that their order may be an artefact;
        nobody where the data tells no real times.
    """
    actions = _known_actions(data, targets)  # (T, domains)
    length = actions.sum(axis=1)
    imbalance = actions.max(axis=1) / np.maximum(length, 1)
    own = actions[np.arange(len(targets)), targets.domains]
    scarce = (own == actions.min(axis=1)) & (own < actions.max(axis=1))
    popularity = data.train_actions[targets.items]
    is_head = popularity > _head_threshold(data)[targets.domains]
    has_text = data.has_text[targets.items].astype(bool)
    same_time = _same_time(data, targets)
    return {
        ALL: np.ones(len(targets), dtype=bool),
        "imbalance<0.7": imbalance < 0.7,
        "0.7<=imbalance<0.9": (imbalance >= 0.7) & (imbalance < 0.9),
        "imbalance>=0.9": imbalance >= 0.9,
        "scarce-domain": scarce,
        "not scarce-domain": ~scarce,
        "imbalance>=0.9 and scarce-domain": (imbalance >= 0.9) & scarce,
        "length<=10": length <= 10,
        "10<length<=50": (length > 10) & (length <= 50),
        "length>50": length > 50,
        "popularity=0": popularity == 0,
        "popularity=tail": (popularity > 0) & ~is_head,
        "popularity=head": is_head,
        "text": has_text,
        "no-text": ~has_text,
        "cold": has_text & (popularity == 0),
        "same-time": same_time,
        "not same-time": ~same_time,
    }


def _known_actions(data: TrainingSet, targets: Targets) -> NDArray[np.int64]:
    """(T, domains): the user's real training actions in each domain; of one without any, those before the target."""
    domains = len(data.domains)
    counts = np.zeros((data.n_users, domains), np.int64)
    for first in range(0, data.n_users, USERS_AT_ONCE):
        offsets = data.offsets[first : first + USERS_AT_ONCE + 1]
        span = slice(offsets[0], offsets[-1])
        trained = np.flatnonzero((data.splits[span] == SPLITS.index(TRAIN)) & ~data.synthetic[span]) + offsets[0]
        user = np.searchsorted(offsets, trained, side="right") - 1
        cell = user * domains + data.item_domain[data.items[trained]]
        users = len(offsets) - 1
        counts[first : first + users] = np.bincount(cell, minlength=users * domains).reshape(users, domains)
    known = counts[targets.users]
    for row in np.flatnonzero(known.sum(axis=1) == 0):
        before = slice(data.offsets[targets.users[row]], targets.positions[row])
        real = data.items[before][~data.synthetic[before]]
        known[row] = np.bincount(data.item_domain[real], minlength=domains)
    return known


def _head_threshold(data: TrainingSet) -> NDArray[np.int64]:
    """(domains,): an item with more training actions than this belongs to the head."""
    threshold = np.zeros(len(data.domains), dtype=np.int64)
    for domain, items in enumerate(data.domain_items):
        falling = -np.sort(-data.train_actions[items])
        trained = np.count_nonzero(falling)
        if trained:
            threshold[domain] = falling[trained // HEAD_PART]
    return threshold


def _same_time(data: TrainingSet, targets: Targets) -> Mask:
    """(T,): whether the last real action before the target has the target's time, where times are real."""
    if not data.has_real_times:
        return np.zeros(len(targets), dtype=bool)
    before = data.real_at[data.real_before[targets.positions] - 1]  # a target without one reads anything here
    known = data.real_before[targets.positions] > data.real_before[data.offsets[targets.users]]
    same: Mask = data.times[before] == data.times[targets.positions]
    return known & same
