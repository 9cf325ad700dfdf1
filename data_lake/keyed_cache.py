"""Rows that every run of a dataset shares, each under a key: replies, vectors, cluster centres."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_lake.files import put_file, temporary
from data_lake.manifest import hash_file

ROWS_PER_GROUP = 64
"""Few, so that what is read for one row is little more than the row."""
MERGE_AT = 64
MERGE_BELOW = 200_000
DIGEST = 16
"""Hexadecimal digits of a part's SHA-256 in its name."""


class DamagedPartWarning(UserWarning):
    """A part of a cache was not what had been written."""


class KeyedCache:
    """Rows under a text key, stored as Parquet parts that are added and never changed.

    Of two rows with one key the later counts. A part appears by rename, so a half-written one is never read. Its name
    holds a hash of its bytes: a part that is not what was written is removed with a warning, and its rows are as if
    they had never been put. Parts may have different columns (vectors of two models); the rows of one `get` must have
    the same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.merges = True
        """Whether many small parts become one as rows are added; only the process that holds the lake may."""
        self._keys: dict[str, pa.ChunkedArray] = {}  # the keys of each part read so far

    def put(self, table: pa.Table) -> None:
        """Add rows; the column "key" holds their keys. Raises ValueError where it is missing or has nulls."""
        if "key" not in table.column_names or table["key"].null_count:
            raise ValueError("a keyed cache needs a column 'key' without nulls")
        if table.num_rows:
            self._write(table)
            if self.merges:
                self._merge()

    def get(self, keys: Sequence[str]) -> pa.Table:
        """Return one row per distinct key that the cache holds, in the order of `keys`.

        Where it holds none, the table has no rows and the single column "key".
        """
        wanted = pa.array(keys, pa.string()).unique()
        found = [pa.table({"key": pa.array([], pa.string())})]
        for path in self._sound_parts():
            rows = np.flatnonzero(pc.is_in(self._keys[path.name], value_set=wanted).to_numpy())
            if len(rows):
                found.append(_take(path, rows))
        return _latest(pa.concat_tables(found[1:] or found, promote_options="permissive"), wanted)

    def all_keys(self) -> set[str]:
        """Return the keys of all rows."""
        return {key for path in self._sound_parts() for key in self._keys[path.name].to_pylist()}

    def change(self, change: Callable[[pa.Table], pa.Table], is_dry: bool = False) -> int:
        """Replace each part by what `change` makes of its rows, unless `is_dry`; return how many rows are gone."""
        gone = 0
        for path in self._sound_parts():
            before = pq.read_table(path, partitioning=None)
            rows = change(before)
            gone += before.num_rows - rows.num_rows
            if is_dry or rows.equals(before):
                continue
            if rows.num_rows:
                self._write(rows, number=int(path.name.split("-")[0]))
            path.unlink()
            self._keys.pop(path.name)
        return gone

    def _parts(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.parquet") if not path.name.startswith("."))

    def _sound_parts(self) -> list[Path]:
        """Return the parts whose bytes are what was written, once their keys are read; remove the others."""
        sound = []
        for path in self._parts():
            if path.name in self._keys or (reason := self._read_keys(path)) == "":
                sound.append(path)
                continue
            with suppress(OSError):  # of a lake that is only read
                path.unlink()
            warnings.warn(f"{path} {reason}. It is left out, and what it held is made again.", DamagedPartWarning, 3)
        return sound

    def _read_keys(self, path: Path) -> str:
        """Remember the keys of a part. Returns why it cannot be believed, or an empty text."""
        digest = path.stem.partition("-")[2]
        try:
            if len(digest) == DIGEST and digest != hash_file(path)[:DIGEST]:  # a shorter one is of an earlier version
                return "is not what was written"
            keys = pq.read_table(path, columns=["key"], partitioning=None)["key"].cast(pa.string())
        except (pa.ArrowException, KeyError, OSError) as error:
            return f"cannot be read ({str(error).splitlines()[0]})"
        self._keys[path.name] = keys
        return ""

    def _write(self, table: pa.Table, number: int | None = None) -> None:
        """Write a part, the last one or the one of a number."""
        if number is None:
            parts = self._parts()
            number = int(parts[-1].name.split("-")[0]) + 1 if parts else 0
        written = temporary(self.folder)
        leaves = {f"{field.name}.list.element" if _is_vector(field) else field.name: field for field in table.schema}
        pq.write_table(
            table, written, row_group_size=ROWS_PER_GROUP,
            use_dictionary=[leaf for leaf, field in leaves.items() if not _is_vector(field)],
            compression={leaf: "none" if _is_vector(field) else "zstd" for leaf, field in leaves.items()},
        )  # fmt: skip
        put_file(written, self.folder / f"{number:08d}-{hash_file(written)[:DIGEST]}.parquet")

    def _merge(self) -> None:
        """Merge the newest small parts into one where there are many."""
        small: list[Path] = []
        for path in reversed(self._sound_parts()):
            if len(self._keys[path.name]) >= MERGE_BELOW:
                break
            small.insert(0, path)
        if len(small) < MERGE_AT:
            return
        tables = [pq.read_table(path, partitioning=None) for path in small]
        schemas = {str(table.schema): table.schema for table in tables}
        for schema in schemas.values():
            rows = pa.concat_tables([table for table in tables if table.schema.equals(schema)])
            self._write(_latest(rows, rows["key"].unique()))
        for path in small:  # a crash before this leaves the same rows twice, which changes no result
            path.unlink()
            self._keys.pop(path.name, None)


def _take(path: Path, rows: np.ndarray) -> pa.Table:
    """Return some rows of a part, reading only the row groups that hold them."""
    with pq.ParquetFile(path, memory_map=True) as file:
        length = file.metadata.row_group(0).num_rows
        groups, index = np.unique(rows // length, return_inverse=True)
        return file.read_row_groups(groups.tolist()).take(pa.array(index * length + rows % length))


def _is_vector(field: pa.Field) -> bool:
    return bool(pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type))


def _latest(rows: pa.Table, keys: pa.Array) -> pa.Table:
    """Return the last row of each key, in the order of `keys`."""
    numbered = pa.table({"key": rows["key"], "row": np.arange(rows.num_rows)})
    last = numbered.group_by("key", use_threads=False).aggregate([("row", "max")])  # see `tables._check_key`
    last = last.append_column("order", pc.index_in(last["key"], value_set=keys)).sort_by("order")
    return rows.take(last["row_max"])
