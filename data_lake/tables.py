"""Read, write and check the tables of an artifact.

A table that breaks its artifact's schema is neither written nor read: the lake calls `check` on both.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_lake.errors import UserError
from data_lake.schemas import VECTOR, Artifact

if TYPE_CHECKING:
    import pyarrow.dataset as ds

ROWS_PER_PART = 1_000_000
ROWS_PER_GROUP = 32_768
UNREADABLE = (pa.ArrowException, OSError, ValueError)
"""What Arrow raises on a file that is damaged, or is no Parquet."""


class SchemaError(UserError):
    """A table breaks its artifact's schema; the message names the artifact, the column and the first bad row."""


def check(table: pa.Table, artifact: Artifact, name: str = "") -> pa.Table:
    """Return `table` with exactly the columns and types of the artifact's table `name`.

    Integers, times and texts are cast where that loses nothing, floats are rounded to the schema's width. A vector
    column becomes a fixed-size list. Raises SchemaError for a missing or unknown column, another kind of type, a null
    where the schema forbids it, vectors of two lengths, and a key that occurs twice.
    """
    return _check(table, artifact, name, _schema(artifact, name))


def read_tables(folder: Path, artifact: Artifact, name: str = "", columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of all Parquet files of table `name` in an artifact's folder, in the order of the file names.

    `columns` limits what is read; the key is checked when all of its columns are among them.
    """
    schema = _chosen(artifact, name, columns)
    parts = [_read(path, artifact, name, columns) for path in paths_of(folder, artifact, name)]
    try:
        whole = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise SchemaError(f"{_title(artifact, name)}: the files in {folder / name} differ ({error}).") from error
    return _check(whole, artifact, name, schema)


def read_part(path: Path, artifact: Artifact, name: str = "", columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of one of the files, as `read_tables` returns those of all."""
    return _check(_read(path, artifact, name, columns), artifact, name, _chosen(artifact, name, columns))


def paths_of(folder: Path, artifact: Artifact, name: str = "") -> list[Path]:
    """Return the Parquet files of table `name` in an artifact's folder, in the order of their names; at least one."""
    paths = sorted(path for path in (folder / name).glob("*.parquet") if not path.name.startswith("."))
    if not paths:
        raise SchemaError(f"{_title(artifact, name)}: no Parquet file in {folder / name}. Make the artifact first.")
    return paths


def open_parts(folder: Path) -> "ds.Dataset":
    """Return the Parquet parts of a table, in order, without reading them."""
    import pyarrow.dataset as ds  # slow to load

    return ds.dataset([str(part) for part in sorted(folder.glob("*.parquet"))], format="parquet")


def write_parts(table: pa.Table, folder: Path, rows_per_part: int = ROWS_PER_PART) -> list[Path]:
    """Write `table` as part-00000.parquet, part-00001.parquet, ... and return their paths.

    The same rows give the same bytes, however the table is chunked. An empty table makes one part without rows.
    """
    return write_stream([table], table.schema, folder, rows_per_part)


def write_each(tables: Iterable[pa.Table], folder: Path) -> None:
    """Write each table as a part of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(tables):
        path = folder / f"part-{number:05d}.parquet"
        pq.write_table(table.replace_schema_metadata(None), path, compression="zstd", row_group_size=ROWS_PER_GROUP)


def write_stream(
    tables: Iterable[pa.Table], schema: pa.Schema, folder: Path, rows_per_part: int = ROWS_PER_PART, first: int = 0
) -> list[Path]:
    """Write tables of one schema, one after the other, as `write_parts` writes all of them in one.

    No more than a row group and one of `tables` is in memory at a time. `first` is the number of the first part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    schema = schema.remove_metadata()
    paths: list[Path] = []
    for part in _runs(tables, schema, rows_per_part):
        paths.append(folder / f"part-{first + len(paths):05d}.parquet")
        with pq.ParquetWriter(paths[-1], schema, compression="zstd") as writer:
            for group in part:
                writer.write_table(group, row_group_size=ROWS_PER_GROUP)
    return paths


def _runs(tables: Iterable[pa.Table], schema: pa.Schema, rows_per_part: int) -> Iterator[Iterator[pa.Table]]:
    """Yield the row groups of each part; a part is read to its end before the next one is asked for."""
    waiting, source, finished = schema.empty_table(), iter(tables), False

    def take(rows: int) -> pa.Table:
        nonlocal waiting, finished
        while waiting.num_rows < rows and not finished:
            table = next(source, None)
            if table is None:
                finished = True
            else:
                waiting = pa.concat_tables([waiting, table.replace_schema_metadata(None)])
        group, waiting = waiting.slice(0, rows).combine_chunks(), waiting.slice(rows)
        return group

    def part(group: pa.Table) -> Iterator[pa.Table]:
        rows = 0
        while True:
            yield group
            rows += group.num_rows
            room = min(rows_per_part - rows, ROWS_PER_GROUP)
            if room <= 0:
                return
            group = take(room)
            if not group.num_rows:
                return

    first = take(min(ROWS_PER_GROUP, rows_per_part))
    while True:
        yield part(first)
        first = take(min(ROWS_PER_GROUP, rows_per_part))
        if not first.num_rows:
            return


def check_key(keys: pa.Table, artifact: Artifact, name: str = "") -> None:
    """Raise SchemaError where two rows have one key; `keys` has the key's columns of the artifact's table `name`."""
    schema = pa.schema([_schema(artifact, name).field(column) for column in keys.column_names])
    _check(keys, artifact, name, schema)


def empty(artifact: Artifact, name: str = "") -> pa.Table:
    """Return the artifact's table `name` without rows."""
    return check(_schema(artifact, name).empty_table(), artifact, name)


def _read(path: Path, artifact: Artifact, name: str, columns: Sequence[str] | None) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read(columns=None if columns is None else list(columns))
        table.validate(full=True)  # what says that it is UTF-8 may be none
        return table
    except UNREADABLE as error:
        raise SchemaError(f"{_title(artifact, name)}: {path} cannot be read as Parquet ({error}).") from error


def _chosen(artifact: Artifact, name: str, columns: Sequence[str] | None) -> pa.Schema:
    schema = _schema(artifact, name)
    return schema if columns is None else pa.schema([schema.field(column) for column in columns])


def _schema(artifact: Artifact, name: str) -> pa.Schema:
    if name not in artifact.tables:
        known = ", ".join(artifact.tables) if "" not in artifact.tables else "only one table, without a name"
        raise SchemaError(f"{artifact.name} has no table '{name}'; it has {known}.")
    return artifact.tables[name]


def _title(artifact: Artifact, name: str) -> str:
    return f"{artifact.name}/{name}" if name else artifact.name


def _check(table: pa.Table, artifact: Artifact, name: str, schema: pa.Schema) -> pa.Table:
    title, forbids = _title(artifact, name), artifact.name.upper()
    key = artifact.key.get(name, ())
    for column in schema.names:
        if column not in table.column_names:
            raise SchemaError(f"{title}: column '{column}' is missing; {forbids} needs it.")
    for column in table.column_names:
        if column not in schema.names and (further := artifact.further_column(column)) is not None:
            schema = schema.append(further)
        if column not in schema.names:
            raise SchemaError(f"{title}: column '{column}' is unknown; {forbids} has {', '.join(schema.names)}.")

    def where(row: int) -> str:
        values = [f"{column}={table[column][row].as_py()}" for column in key if column in table.column_names]
        return ", ".join([*values, f"row {row}"])

    columns, fields = [], []
    for field in schema:
        column = table[field.name]
        about = f"{title}: column '{field.name}'"
        if not _castable(column.type, field.type):
            raise SchemaError(f"{about} is {column.type}; {forbids} needs {field.type}.")
        if column.null_count and not field.nullable:
            row = pc.index(column.is_null(), True).as_py()
            raise SchemaError(f"{about} has {column.null_count} nulls (first at {where(row)}); {forbids} forbids them.")
        kind = _vectors(column, about, where) if field.type == VECTOR else field.type
        cast = _cast(column, kind)
        if cast is None:
            row = _first_bad(column, kind)
            value = column[row].as_py()
            raise SchemaError(f"{about} cannot hold {value!r} (at {where(row)}) as {kind} without a loss.")
        inner = kind.value_field if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) else None
        filled = inner is not None and (field.type == VECTOR or not inner.nullable)
        if filled and any(chunk.flatten().null_count for chunk in cast.chunks):
            row = next(row for row, value in enumerate(cast) if value.is_valid and value.values.null_count)
            raise SchemaError(f"{about} holds a null inside its list (first at {where(row)}); {forbids} forbids it.")
        columns.append(cast)
        fields.append(field.with_type(kind))
    checked = pa.table(columns, schema=pa.schema(fields))
    if key and set(key) <= set(schema.names):
        _check_key(checked, key, title, forbids)
    return checked


def _castable(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether two types are of one kind: a number never becomes a text, nor a text a number."""
    types = pa.types
    if types.is_dictionary(given):
        given = given.value_type
    if types.is_null(given):
        return True
    if types.is_integer(wanted):
        return bool(types.is_integer(given))
    if types.is_floating(wanted):
        return bool(types.is_floating(given) or types.is_integer(given))
    if types.is_string(wanted):
        return bool(types.is_string(given) or types.is_large_string(given) or types.is_string_view(given))
    if types.is_timestamp(wanted):
        return bool(types.is_timestamp(given) and given.tz is not None)
    if types.is_list(wanted):
        is_list = types.is_list(given) or types.is_large_list(given) or types.is_fixed_size_list(given)
        return is_list and _castable(given.value_type, wanted.value_type)
    return bool(given == wanted)


def _vectors(column: pa.ChunkedArray, about: str, where: Callable[[int], str]) -> pa.DataType:
    """Return the fixed-size list type of a vector column: all of its vectors have one length."""
    lengths = pc.list_value_length(column) if not pa.types.is_null(column.type) else column.cast(pa.int32())
    known = lengths.drop_null()
    if len(known) == 0:  # no vector to measure; readers such as DuckDB know no arrays of length 0
        fixed = pa.types.is_fixed_size_list(column.type)
        return pa.list_(pa.float32(), max(column.type.list_size if fixed else 1, 1))
    first = known[0].as_py()
    other = pc.index(pc.fill_null(pc.not_equal(lengths, first), False), True).as_py()
    if other >= 0 or first == 0:
        row = max(other, 0)
        raise SchemaError(f"{about} holds a vector of length {lengths[row]} at {where(row)}, others have {first}.")
    return pa.list_(pa.float32(), first)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        return None


def _first_bad(column: pa.ChunkedArray, kind: pa.DataType) -> int:
    """Return the first row that cannot be cast, by bisection."""
    good, bad = 0, len(column)  # the first `good` rows can be cast, the first `bad` rows cannot
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if _cast(column.slice(0, middle), kind) is None else (middle, bad)
    return bad - 1


def _check_key(table: pa.Table, key: tuple[str, ...], title: str, forbids: str) -> None:
    if _rises(table, key) or table.group_by(list(key), use_threads=False).aggregate([]).num_rows == table.num_rows:
        return  # the usual case, at half the memory of the rest
    rows = pa.array(np.arange(table.num_rows))
    # A thread of Arrow that still holds memory of numpy when the interpreter ends aborts the process.
    groups = table.select(list(key)).append_column("_row", rows).group_by(list(key), use_threads=False)
    seen = groups.aggregate([("_row", "min"), ("_row", "max")])
    twice = seen.filter(pc.not_equal(seen["_row_min"], seen["_row_max"])).sort_by("_row_min").slice(0, 1).to_pylist()
    if twice:
        values = ", ".join(f"{column}={twice[0][column]}" for column in key)
        first, last = twice[0]["_row_min"], twice[0]["_row_max"]
        each = ", ".join(key)
        raise SchemaError(f"{title}: {values} is in rows {first} and {last}; {forbids} needs each {each} once.")


def _rises(table: pa.Table, key: tuple[str, ...]) -> bool:
    """Return whether each row's key is greater than that of the row before: then none stands there twice."""
    if table.num_rows < 2:
        return True
    rises, is_same = pa.scalar(False), pa.scalar(True)
    for column in (table[name] for name in key):
        before, after = column.slice(0, len(column) - 1), column.slice(1)
        rises = pc.or_(rises, pc.and_(is_same, pc.less(before, after)))
        is_same = pc.and_(is_same, pc.equal(before, after))
    return pc.all(pc.fill_null(rises, False)).as_py() is True
