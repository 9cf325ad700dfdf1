"""What the tables of a training set become in memory, told from the files before they are read whole."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_lake.errors import UserError
from data_lake.schemas import ALL, TRAINING_SET
from data_lake.tables import UNREADABLE

MOST_UNPACKED = 100
"""How many values, and how many bytes, each byte of a file may become; up to FREELY_UNPACKED in any case."""
FREELY_UNPACKED = 2**27
MOST_EMPTY = 1000
"""How many times the size of the vectors that are given the matrix may have, which has zeros for all others; up to
FREELY_UNPACKED bytes in any case."""
MOST_DOMAINS = 1000
WIDEST_VECTOR = 16_384
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def check_sizes(folder: Path) -> None:
    """Refuse files that become far more in memory than they are, as damaged and hostile ones do."""
    for name in TRAINING_SET.tables:
        for path in (folder / name).glob("*.parquet"):
            try:
                size = max(_values(path), _texts(path))
            except UNREADABLE as error:
                raise UserError(f"{path} cannot be read as Parquet ({error}). Build the training set again.") from error
            if size > max(MOST_UNPACKED * path.stat().st_size, FREELY_UNPACKED):
                raise UserError(
                    f"{path}: unpacked it is more than {MOST_UNPACKED} times its size (MOST_UNPACKED), as damaged and "
                    "hostile files are. Build the training set again."
                )


def check_matrix(rows: int, width: int, given: int, where: str) -> None:
    """Refuse a matrix of `rows` vectors of which `given` are there, and nearly all memory would be for the others."""
    if width > WIDEST_VECTOR:
        raise UserError(f"{where}: a vector has {width} numbers; at most {WIDEST_VECTOR} are read. Build it again.")
    if 4 * rows * width > max(4 * given * width * MOST_EMPTY, FREELY_UNPACKED):
        raise UserError(
            f"{where}: {given} of {rows} have a vector, of {width} numbers; few for "
            f"{4e-9 * rows * width:.1f} GB of memory. Build it again."
        )


def check_domains(domains: tuple[str, ...], where: str) -> None:
    """Refuse domains that are too many, or of which one is named twice."""
    if len(domains) > MOST_DOMAINS:
        raise UserError(f"{where}: info.domains names {len(domains)}; at most {MOST_DOMAINS} are read. Build it again.")
    if len(set(domains)) < len(domains):
        raise UserError(f"{where}: info.domains {list(domains)} names one twice. Build it again.")


def check_scopes(scopes: Iterable[str], domains: tuple[str, ...], where: str) -> None:
    """Refuse profile vectors of what is no domain, for each of which a matrix would be made."""
    for scope in scopes:
        if scope not in (*domains, ALL):
            raise UserError(f"{where}/profile_vectors: scope {scope[:60]!r} is no domain. Build it again.")


def _values(path: Path) -> int:
    """Return the values of a file, or its bytes once unpacked, whichever are more."""
    with pq.ParquetFile(path) as file:
        file.scan_contents()  # raises where what is said of columns contradicts itself; asked for it, Arrow would abort
        about = file.metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    values = sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
    return int(max(values, about.num_rows, sum(group.total_byte_size for group in groups)))


def _texts(path: Path) -> int:
    """Return the bytes of a file's texts. One that stands there often is held once meanwhile, as in the file."""
    size = 0
    for name in [field.name for field in pq.read_schema(path) if _is_text(field.type)]:
        with pq.ParquetFile(path, read_dictionary=[name]) as file:
            for batch in file.iter_batches(columns=[name]):
                texts = batch.column(0)
                lengths = pc.binary_length(texts.dictionary if pa.types.is_dictionary(texts.type) else texts)
                each = lengths.take(texts.indices) if pa.types.is_dictionary(texts.type) else lengths
                size += pc.sum(each.cast(pa.int64())).as_py() or 0
    return size


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_text(plain) for is_text in _TEXTS)
