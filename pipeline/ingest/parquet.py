"""Read a Parquet file into columns of plain values.

Arrow reads it, as it raises an error for a damaged file where polars ends with a panic.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from data_lake.errors import UserError
from pipeline.ingest.limits import check_unpacked

NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""What a folder `name=value` is called that holds the rows without a value."""

_PLAIN = (
    kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_boolean, kinds.is_string, kinds.is_large_string,
    kinds.is_string_view, kinds.is_timestamp, kinds.is_date, kinds.is_null,
)  # fmt: skip
_BYTES = (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view, kinds.is_fixed_size_binary)
_LISTS = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)


def columns_of(path: Path) -> list[str]:
    """Return the columns of a file, and those that the folders `name=value` around it add."""
    with _opened(path) as file:
        there = list(file.schema_arrow.names)
    return [*there, *(name for name in _partitions(path) if name not in there)]


def count_rows(path: Path) -> int:
    """Return the rows of a file."""
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def read_head(path: Path, columns: Sequence[str], most: int) -> pl.DataFrame:
    """Return `columns`, of the first rows, at most `most`, and `line`, as `batches` yields them."""
    found, rows = next(batches(path, columns, most)), count_rows(path)
    if len(found) < min(most, rows):
        raise _too_few(path, rows, len(found))
    return found


def batches(path: Path, columns: Sequence[str], rows_at_once: int) -> Iterator[pl.DataFrame]:
    """Yield `columns`, at most so many rows at once, and `line`: the row, counted from 1. At least one.

    Numbers and times are as typed; texts, bytes, lists and decimals are text. Raises UserError for a column of anything
    else, and for a damaged file.
    """
    with _opened(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        added = {name: value for name, value in _partitions(path).items() if name in columns and name not in there}
        if lost := [name for name in columns if name not in there and name not in added]:
            raise UserError(f"{path}: it has no column {lost[0]!r}. Correct [data] columns, or get the file again.")
        rows = 0
        for table in _tables(file, there, rows_at_once):
            plain = pa.table({name: _plain(path, name, table[name]) for name in there})
            plain.validate(full=True)
            # Column by column: of a whole table polars gives one without a name another one.
            each = {name: pl.Series(pl.from_arrow(plain[name])) for name in there}
            frame = pl.DataFrame(each).with_columns(pl.selectors.by_dtype(pl.List).list.join(" "))
            count = len(frame) if there else file.metadata.num_rows
            lines = pl.int_range(rows + 1, rows + count + 1, dtype=pl.Int64, eager=True).alias("line")
            rows += count
            yield pl.DataFrame({column.name: column for column in (*frame, lines)}).select(
                *(pl.lit(added[name], pl.String).alias(name) if name in added else name for name in columns), "line"
            )
        if rows != file.metadata.num_rows:
            raise _too_few(path, file.metadata.num_rows, rows)


def _too_few(path: Path, said: int, found: int) -> UserError:
    return UserError(f"{path}: it says that it has {said:,} rows, and has {found:,}. Get it again.")


def _tables(file: pq.ParquetFile, columns: list[str], rows_at_once: int) -> Iterator[pa.Table]:
    if not columns or not file.metadata.num_rows:
        yield file.read(columns=columns)
        return
    for batch in file.iter_batches(rows_at_once, columns=columns):
        yield pa.Table.from_batches([batch])


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            unpacked = sum(file.metadata.row_group(group).total_byte_size for group in groups)
            check_unpacked(path, max(unpacked, file.metadata.num_rows))
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = (str(error).splitlines() or [""])[0].removesuffix(".")[:200]
        raise UserError(f"{path}: cannot be read as Parquet ({why}). Get the file again.") from error


def _partitions(path: Path) -> dict[str, str | None]:
    """Return {name: value} of the folders `name=value` that hold the file, the outermost first."""
    found: dict[str, str | None] = {}
    for folder in path.parents:
        name, equals, value = folder.name.partition("=")
        if not (name and equals):
            break
        found = {name: None if value == NO_PARTITION else unquote(value)} | found
    return found


def _plain(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without dictionaries and extensions, and bytes, decimals and the values of lists as text."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(path, name, column.cast(kind.storage_type))
    if kinds.is_dictionary(kind):
        return _plain(path, name, column.cast(kind.value_type))
    if any(is_kind(kind) for is_kind in _LISTS):
        inner = kind.value_type.value_type if kinds.is_dictionary(kind.value_type) else kind.value_type
        if any(is_kind(inner) for is_kind in _PLAIN):
            return column.cast(pa.large_list(pa.large_string()))
    if any(is_kind(kind) for is_kind in _BYTES) or kinds.is_decimal(kind):
        try:
            return column.cast(pa.large_string())
        except pa.ArrowInvalid as error:
            raise UserError(f"{path}: column '{name}' holds bytes that are no text. Give another column.") from error
    if kinds.is_timestamp(kind) and kind.tz:
        return column.cast(pa.timestamp(kind.unit, "UTC"))  # polars knows fewer zones
    if any(is_kind(kind) for is_kind in _PLAIN):
        return column
    raise UserError(f"{path}: column '{name}' holds {kind}, no plain values. Give another column.")
