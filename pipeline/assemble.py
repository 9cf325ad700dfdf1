"""Put together what the trainer reads: everything in integer ids, complete in itself."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_lake.schemas import ALL, SPLITS, TRAIN, TRAINING_SET_VERSION
from pipeline.frames import lists
from pipeline.vectors.catalogue import matrix, vector_column


def assemble(
    sequences: pa.Table,
    items: pa.Table,
    item_embeddings: pa.Table,
    profile_embeddings: pa.Table | None,
    domains: Sequence[str],
    candidates_seed: int,
    times: str = "real",
) -> dict[str, pa.Table]:
    """Return the tables of TRAINING_SET.

    `sequences` are the augmented ones, or the plain ones where nothing was generated; then no position is synthetic.
    Items are numbered from 1 by domain (in the order of `domains`), then id; users from 1 by id. `times` says whether
    the sequences' timestamps are real or an order only.
    """
    order = pc.index_in(items["domain"], value_set=pa.array(domains, pa.string()))
    items = items.append_column("order", order).sort_by([("order", "ascending"), ("item_id", "ascending")])
    sequences = sequences.sort_by("user_id").combine_chunks()
    numbers = np.arange(1, items.num_rows + 1, dtype=np.int32)
    users = np.arange(1, sequences.num_rows + 1, dtype=np.int32)

    sizes = pc.list_value_length(sequences["item_ids"]).to_numpy()
    item = pc.add(pc.index_in(pc.list_flatten(sequences["item_ids"]), value_set=items["item_id"].combine_chunks()), 1)
    item = item.combine_chunks() if isinstance(item, pa.ChunkedArray) else item
    milliseconds = _flat(sequences["timestamps"]).cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64())
    role = pc.index_in(_flat(sequences["splits"]), value_set=pa.array(SPLITS)).cast(pa.int8())
    if "synthetic" in sequences.column_names:
        synthetic, weight = _flat(sequences["synthetic"]), _flat(sequences["weights"])
    else:
        synthetic, weight = pa.array(np.zeros(len(item), bool)), pa.array(np.zeros(len(item), np.float32))
    counted = (role.to_numpy() == SPLITS.index(TRAIN)) & ~synthetic.to_numpy(zero_copy_only=False)
    actions = np.bincount(item.to_numpy()[counted], minlength=items.num_rows + 1)[1:]

    return {
        "sequences": pa.table({
            "user": users,
            "items": lists(item, sizes),
            "times": lists(milliseconds, sizes),
            "splits": lists(role, sizes),
            "synthetic": lists(synthetic, sizes),
            "weights": lists(weight, sizes),
        }),
        "users": pa.table({"user": users, "user_id": sequences["user_id"], "key": _keys(sequences["user_id"])}),
        "items": pa.table({
            "item": numbers,
            "item_id": items["item_id"],
            "domain": items["domain"],
            "title": items["title"],
            "train_actions": actions.astype(np.int64),
            "key": _keys(items["item_id"]),
        }),
        "item_vectors": _item_vectors(items["item_id"], item_embeddings),
        "profile_vectors": _profile_vectors(sequences["user_id"], profile_embeddings, domains),
        "info": pa.table({
            "contract_version": [TRAINING_SET_VERSION],
            "candidates_seed": [candidates_seed],
            "domains": [list(domains)],
            "times": [times],
        }),
    }  # fmt: skip


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return pa.chunked_array(pc.list_flatten(column)).combine_chunks()


def _keys(ids: pa.ChunkedArray) -> pa.Array:
    """Return the first 8 bytes of each id's SHA-256, the first byte the highest."""
    digests = [hashlib.sha256(text.encode()).digest()[:8] for text in ids.to_pylist()]
    return pa.array(np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64))


def _item_vectors(item_ids: pa.ChunkedArray, item_embeddings: pa.Table) -> pa.Table:
    vectors, has = matrix(item_embeddings["vector"])
    row = pc.index_in(item_ids, value_set=item_embeddings["item_id"].combine_chunks()).to_numpy()
    numbers = np.arange(1, len(item_ids) + 1, dtype=np.int32)
    return pa.table({"item": numbers, "vector": vector_column(vectors[row], has[row])})


def _profile_vectors(
    user_ids: pa.ChunkedArray, profile_embeddings: pa.Table | None, domains: Sequence[str]
) -> pa.Table:
    if profile_embeddings is None:
        kinds = {"user": pa.int32(), "scope": pa.string(), "vector": pa.list_(pa.float32())}
        return pa.schema(kinds.items()).empty_table()
    user = pc.add(pc.index_in(profile_embeddings["user_id"], value_set=user_ids.combine_chunks()), 1)
    scope = pc.index_in(profile_embeddings["scope"], value_set=pa.array([*domains, ALL]))
    rows = profile_embeddings.select(["scope", "vector"]).append_column("user", user).append_column("order", scope)
    return rows.sort_by([("user", "ascending"), ("order", "ascending")]).drop_columns(["order"])
