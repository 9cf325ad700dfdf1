"""Bring the long tables of a training set to memory-mapped files, row group by row group.

A mapped array reads like one in memory, so batches and weights are those of a training set that was loaded whole. Its
pages come from the disk when they are used and may be dropped again; the file has no name and ends with the process.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import DTypeLike, NDArray

from data_lake.errors import UserError
from data_lake.schemas import TRAINING_SET
from data_lake.tables import UNREADABLE, check
from model.data.positions import check_positions
from model.data.sizes import check_scopes

KINDS: dict[str, DTypeLike] = {
    "items": np.int32, "times": np.int64, "splits": np.int8, "synthetic": np.bool_, "weights": np.float32,
}  # fmt: skip
"""The lists of `sequences`, and what their elements are in memory."""


def mapped(kind: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return zeros of this shape, held by a nameless file in the temporary folder."""
    if 0 in shape:
        return np.zeros(shape, kind)
    return np.memmap(tempfile.TemporaryFile(), kind, "w+", shape=shape)


def stream_sequences(folder: Path, users: int, items: int) -> dict[str, NDArray[Any]]:
    """Return `offsets` and the flat arrays of all sequences; rows must stand in the order of their users."""
    files = {name: tempfile.TemporaryFile() for name in KINDS}  # noqa: SIM115
    lengths = [np.zeros(1, np.int64)]
    rows = 0
    for table in _row_groups(folder, "sequences"):
        numbers = table["user"].to_numpy()
        if not np.array_equal(numbers, np.arange(rows + 1, rows + 1 + len(numbers))) or rows + len(numbers) > users:
            raise UserError(
                f"{folder}/sequences: 'user' does not run from 1 to {users}, row by row, as streaming needs it. "
                "Build the training set again, or set stream = false."
            )
        rows += len(numbers)
        own = table["items"].combine_chunks().value_lengths().to_numpy()
        lengths.append(own.astype(np.int64))
        flat = {}
        for name, kind in KINDS.items():
            column = table[name].combine_chunks()
            if not np.array_equal(column.value_lengths().to_numpy(), own):
                raise UserError(f"{folder}/sequences: lists of '{name}' and 'items' differ in length. Build it again.")
            flat[name] = column.flatten().to_numpy(zero_copy_only=False).astype(kind, copy=False)
        check_positions(flat, np.cumsum(np.append(0, own)), items, str(folder))
        for name, file in files.items():
            file.write(np.ascontiguousarray(flat[name]).data)
    if rows != users:
        raise UserError(f"{folder}/sequences: {rows} rows for {users} users. Build the training set again.")
    offsets = np.cumsum(np.concatenate(lengths))
    arrays: dict[str, NDArray[Any]] = {"offsets": offsets}
    for name, file in files.items():
        file.flush()
        long = int(offsets[-1])
        arrays[name] = np.memmap(file, KINDS[name], "r+", shape=(long,)) if long else np.zeros(0, KINDS[name])
    return arrays


def stream_profiles(
    folder: Path, users: int, domains: tuple[str, ...]
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Return, per scope, the vectors (users, P), zero where there is none, and where there is one (users,)."""
    scopes: dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]] = {}
    for table in _row_groups(folder, "profile_vectors"):
        table = table.filter(table["vector"].is_valid())
        names = table["scope"].combine_chunks().dictionary_encode()
        code = names.indices.to_numpy()
        user = table["user"].to_numpy() - 1
        if len(user) and (user.min() < 0 or user.max() >= users):
            raise UserError(f"{folder}/profile_vectors: a vector belongs to a user outside 1..{users}. Build it again.")
        column = table["vector"].combine_chunks()
        width = column.type.list_size
        vectors = column.flatten().to_numpy().reshape(-1, width)
        if not np.isfinite(vectors).all():
            raise UserError(f"{folder}/profile_vectors: a vector holds what is no number. Build it again.")
        check_scopes(names.dictionary.to_pylist(), domains, str(folder))
        for number, scope in enumerate(names.dictionary.to_pylist()):
            if scope not in scopes:
                scopes[scope] = mapped(np.float32, (users, width)), np.zeros(users, np.bool_)
            mine = code == number
            scopes[scope][0][user[mine]], scopes[scope][1][user[mine]] = vectors[mine], True
    return dict(sorted(scopes.items()))


def _row_groups(folder: Path, name: str) -> Iterator[pa.Table]:
    for path in sorted(path for path in (folder / name).glob("*.parquet") if not path.name.startswith(".")):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            try:
                rows = file.read_row_group(group)
            except UNREADABLE as error:
                raise UserError(f"{path} cannot be read as Parquet ({error}). Build the training set again.") from error
            yield check(rows, TRAINING_SET, name)
