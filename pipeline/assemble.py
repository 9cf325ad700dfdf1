"""Put together what the trainer reads: everything in integer ids, complete in itself."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_lake.schemas import ALL, SPLITS, TRAIN, TRAINING_SET_VERSION
from pipeline.frames import lists

ITEMS_AT_ONCE = 65_536
"""Items whose vectors are copied at once."""


class Assembly:
    """The tables of TRAINING_SET, of which those by user are made part by part, in the order of the parts.

    Items are numbered from 1 by domain (in the order of `domains`), then id; users from 1 by part, then id.
    """

    def __init__(self, items: pa.Table, domains: Sequence[str]) -> None:
        order = pc.index_in(items["domain"], value_set=pa.array(domains, pa.string()))
        self._items = items.append_column("order", order).sort_by([("order", "ascending"), ("item_id", "ascending")])
        self._item_ids = self._items["item_id"].combine_chunks()
        self._domains = domains
        self._actions = np.zeros(items.num_rows + 1, np.int64)
        self._users = 0

    def sequences(self, sequences: pa.Table) -> pa.Table:
        """Return the next part's sequences: of augmented ones, or of plain ones, in which no position is synthetic."""
        sequences = sequences.sort_by("user_id").combine_chunks()
        sizes = pc.list_value_length(sequences["item_ids"]).to_numpy()
        item = pc.add(pc.index_in(_flat(sequences["item_ids"]), value_set=self._item_ids), 1)
        milliseconds = _flat(sequences["timestamps"]).cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64())
        role = pc.index_in(_flat(sequences["splits"]), value_set=pa.array(SPLITS)).cast(pa.int8())
        if "synthetic" in sequences.column_names:
            synthetic, weight = _flat(sequences["synthetic"]), _flat(sequences["weights"])
        else:
            synthetic, weight = pa.array(np.zeros(len(item), bool)), pa.array(np.zeros(len(item), np.float32))
        counted = (role.to_numpy() == SPLITS.index(TRAIN)) & ~synthetic.to_numpy(zero_copy_only=False)
        self._actions += np.bincount(item.to_numpy()[counted], minlength=len(self._actions))
        self._users += sequences.num_rows
        return pa.table({
            "user": np.arange(self._users - sequences.num_rows + 1, self._users + 1, dtype=np.int32),
            "items": lists(item, sizes),
            "times": lists(milliseconds, sizes),
            "splits": lists(role, sizes),
            "synthetic": lists(synthetic, sizes),
            "weights": lists(weight, sizes),
        })  # fmt: skip

    def items(self) -> pa.Table:
        """Return the items; all parts must have been given before."""
        return pa.table({
            "item": np.arange(1, self._items.num_rows + 1, dtype=np.int32),
            "item_id": self._items["item_id"],
            "domain": self._items["domain"],
            "title": self._items["title"],
            "train_actions": self._actions[1:],
            "key": _keys(self._items["item_id"]),
        })  # fmt: skip

    def item_vectors(self, item_embeddings: pa.Table) -> Iterator[pa.Table]:
        """Yield the vector of each item, some items after the others; at least one table."""
        vectors = item_embeddings["vector"].combine_chunks()
        row = pc.index_in(self._item_ids, value_set=item_embeddings["item_id"].combine_chunks())
        for first in range(0, max(len(row), 1), ITEMS_AT_ONCE):
            some = row.slice(first, ITEMS_AT_ONCE)
            numbers = np.arange(first + 1, first + 1 + len(some), dtype=np.int32)
            yield pa.table({"item": numbers, "vector": vectors.take(some)})

    def info(self, candidates_seed: int, times: str) -> pa.Table:
        """Return the one row about all. `times` says whether the timestamps are real or an order only."""
        return pa.table({
            "contract_version": [TRAINING_SET_VERSION],
            "candidates_seed": [candidates_seed],
            "domains": [list(self._domains)],
            "times": [times],
        })  # fmt: skip


def number_users(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the users of each part of sequences, numbered as `Assembly` numbers them."""
    first = 1
    for part in parts:
        ids = part.select(["user_id"]).sort_by("user_id")["user_id"]
        yield pa.table({
            "user": np.arange(first, first + len(ids), dtype=np.int32), "user_id": ids, "key": _keys(ids)
        })  # fmt: skip
        first += len(ids)


def profile_vectors(users: pa.Table, profile_embeddings: pa.Table, domains: Sequence[str]) -> pa.Table:
    """Return the profile vectors of a part's users, by user and scope."""
    at = pc.index_in(profile_embeddings["user_id"], value_set=users["user_id"].combine_chunks())
    rows = profile_embeddings.select(["scope", "vector"]).append_column("at", at).filter(pc.is_valid(at))
    user = users["user"].combine_chunks().take(rows["at"].combine_chunks())
    scope = pc.index_in(rows["scope"], value_set=pa.array([*domains, ALL]))
    rows = rows.drop_columns(["at"]).append_column("user", user).append_column("order", scope)
    return rows.sort_by([("user", "ascending"), ("order", "ascending")]).drop_columns(["order"])


def no_profile_vectors() -> pa.Table:
    """Return the profile vectors where nothing was enriched."""
    kinds = {"user": pa.int32(), "scope": pa.string(), "vector": pa.list_(pa.float32())}
    return pa.schema(kinds.items()).empty_table()


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return pa.chunked_array(pc.list_flatten(column)).combine_chunks()


def _keys(ids: pa.ChunkedArray) -> pa.Array:
    """Return the first 8 bytes of each id's SHA-256, the first byte the highest."""
    digests = [hashlib.sha256(text.encode()).digest()[:8] for text in ids.to_pylist()]
    return pa.array(np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64))
