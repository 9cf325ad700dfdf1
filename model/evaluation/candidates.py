"""What a target is ranked against: the whole domain, or negatives drawn by hash.

Letters used in this file: T targets of a split, B targets of a block, M items of a domain, N negatives, S seen pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_lake.schemas import SPLITS, TEST, VALIDATION
from model.data.training_set import TrainingSet

FULL = "full"
SAMPLED = "sampled-"

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]

SCORES_AT_ONCE = 2**25
"""Scores held at once: 128 MiB of float32, whatever the size of the domain."""
HASHES_AT_ONCE = 2**18
"""Hashes computed at once: 2 MiB, so that they stay in the processor's cache."""


def negatives(protocol: str) -> int | None:
    """Number of negatives of a protocol; None where the whole domain is ranked."""
    return None if protocol == FULL else int(protocol.removeprefix(SAMPLED))


@dataclass(frozen=True)
class Targets:
    """The targets of one split: at most one per user, in user order."""

    split: str
    users: Ints  # (T,) row of the user
    positions: Ints  # (T,) where the target stands in the flat sequence arrays
    prefix_length: Ints  # (T,) positions before it in the user's own sequence, which may be read
    items: Ints  # (T,)
    domains: Ints  # (T,)

    def __len__(self) -> int:
        return len(self.users)


def find_targets(data: TrainingSet, split: str, limit: int | None = None) -> Targets:
    """Return the targets of `split`, of at most `limit` users: the same users for every model and split."""
    positions, users = _positions(data, split)
    if limit is not None:
        chosen = np.isin(users, _sample_users(data, limit))
        positions, users = positions[chosen], users[chosen]
    prefix_length = positions - data.offsets[users]
    items = data.items[positions].astype(np.int64)
    return Targets(split, users, positions, prefix_length, items, data.item_domain[items].astype(np.int64))


def _positions(data: TrainingSet, split: str) -> tuple[Ints, Ints]:
    """Return the flat positions of the real actions of `split`, and the user row of each."""
    positions = np.flatnonzero((data.splits == SPLITS.index(split)) & ~data.synthetic)
    return positions, np.searchsorted(data.offsets, positions, side="right") - 1


def _sample_users(data: TrainingSet, limit: int) -> Ints:
    """Rows of the `limit` users with a target in either split whose keys hash to the smallest numbers."""
    users = np.union1d(_positions(data, VALIDATION)[1], _positions(data, TEST)[1])
    hashes = mix(data.user_keys[users] ^ _stream(data.candidates_seed, 0))
    return users[np.argsort(hashes, kind="stable")[:limit]]


@dataclass(frozen=True)
class Block:
    """Some targets of one domain. A column is an item's index in the domain."""

    domain: str
    columns: Ints  # (M,) the item of each column
    rows: Ints  # (B,) index in `Targets`
    users: Ints  # (B,)
    prefix_length: Ints  # (B,)
    target: Ints  # (B,) column of the target
    seen_row: Ints  # (S,) history of the block's targets inside the domain, each pair once, the target left out
    seen_column: Ints  # (S,)
    sampled: Ints  # (B, N) columns of negatives in drawing order; only the first `unseen` of a row count
    unseen: Ints  # (B,) items of the domain that are neither history nor target


def blocks(data: TrainingSet, targets: Targets, protocols: Sequence[str], batch: int) -> Iterator[Block]:
    """Yield the targets domain by domain, those with sequences of similar length together.

    The negatives of a target are the items with the smallest hashes of (seed, split, user key, item key) among those
    that are neither its history nor the target itself: a uniform draw without replacement that no model, batch,
    other user or other item can change. LLMCDSR (TOIS 2025) draws 999 items other than the target instead, and lets
    the history be among them.
    """
    count = max((negatives(protocol) or 0 for protocol in protocols), default=0)
    stream = _stream(data.candidates_seed, SPLITS.index(targets.split))
    by_length = np.argsort(targets.prefix_length, kind="stable")
    for number, (domain, columns) in enumerate(zip(data.domains, data.domain_items, strict=True)):
        mine = by_length[targets.domains[by_length] == number]
        step = max(1, min(batch, SCORES_AT_ONCE // max(1, len(columns))))
        for start in range(0, len(mine), step):
            rows = mine[start : start + step]
            users, prefix_length = targets.users[rows], targets.prefix_length[rows]
            target = np.searchsorted(columns, targets.items[rows])
            seen_row, seen_column = history(data, users, prefix_length, columns)
            other = seen_column != target[seen_row]
            seen_row, seen_column = seen_row[other], seen_column[other]
            unseen = len(columns) - 1 - np.bincount(seen_row, minlength=len(rows))
            row_of = np.concatenate([seen_row, np.arange(len(rows))])
            excluded = np.concatenate([seen_column, target])
            user_hashes = mix(data.user_keys[users] ^ stream)
            sampled = smallest(user_hashes, data.item_keys[columns], row_of, excluded, count)
            yield Block(
                domain, columns, rows, users, prefix_length, target, seen_row, seen_column, sampled, unseen
            )  # fmt: skip


def history(data: TrainingSet, users: Ints, prefix_length: Ints, columns: Ints) -> tuple[Ints, Ints]:
    """Return the real items of the prefixes that are among `columns`: (row, column) pairs, each once, row by row."""
    row = np.repeat(np.arange(len(users)), prefix_length)
    within = np.arange(len(row)) - np.repeat(np.cumsum(prefix_length) - prefix_length, prefix_length)
    position = np.repeat(data.offsets[users], prefix_length) + within
    row, item = row[~data.synthetic[position]], data.items[position[~data.synthetic[position]]]
    column = np.minimum(np.searchsorted(columns, item), len(columns) - 1)
    here = columns[column] == item
    pairs = np.unique(row[here] * len(columns) + column[here])
    return pairs // len(columns), pairs % len(columns)


def smallest(user_hashes: Keys, item_keys: Keys, excluded_row: Ints, excluded_column: Ints, count: int) -> Ints:
    """Return (B, N) columns of the items with the smallest hashes, by rising hash, excluded pairs last."""
    count = min(count, len(item_keys))
    drawn = np.empty((len(user_hashes), count), dtype=np.int64)
    if count == 0:
        return drawn
    order = np.argsort(excluded_row, kind="stable")
    excluded_row, excluded_column = excluded_row[order], excluded_column[order]
    step = max(1, HASHES_AT_ONCE // len(item_keys))
    for start in range(0, len(user_hashes), step):
        hashes = mix(user_hashes[start : start + step, None] ^ item_keys[None, :])  # (b, M)
        hashes >>= np.uint64(1)
        first, last = np.searchsorted(excluded_row, [start, start + step])
        hashes[excluded_row[first:last] - start, excluded_column[first:last]] = np.iinfo(np.uint64).max
        if count < len(item_keys):
            few = np.argpartition(hashes, count - 1, axis=1)[:, :count]  # (b, N)
        else:
            few = np.broadcast_to(np.arange(count), hashes.shape)
        rising = np.argsort(np.take_along_axis(hashes, few, axis=1), axis=1, kind="stable")
        drawn[start : start + step] = np.take_along_axis(few, rising, axis=1)
    return drawn


def mix(keys: Keys) -> Keys:
    """Scramble 64-bit keys: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    keys = keys ^ (keys >> np.uint64(30))
    keys *= np.uint64(0xBF58476D1CE4E5B9)
    keys ^= keys >> np.uint64(27)
    keys *= np.uint64(0x94D049BB133111EB)
    keys ^= keys >> np.uint64(31)
    return keys


def _stream(seed: int, number: int) -> np.uint64:
    """Return a key that sets one split's draws apart from another's."""
    golden = 0x9E3779B97F4A7C15
    start = np.array([(seed + (number + 1) * golden) % 2**64], dtype=np.uint64)
    return np.uint64(mix(start)[0])
