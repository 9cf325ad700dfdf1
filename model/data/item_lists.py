"""Lists of items that may, or may not, be recommended."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from data_lake.errors import UserError
from model.data.training_set import Bools, TrainingSet


def read_ids(path: Path, column: str) -> pa.Array:
    """Return the ids that a file lists, each once: one a line, or the column of this name of a CSV or Parquet file."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            ids = _column(pq.read_table(path), path, column)
        elif path.suffix.lower() == ".csv" and "," in path.open(encoding="utf-8-sig").readline():
            texts = pyarrow.csv.ConvertOptions(column_types={column: pa.string()})
            ids = _column(pyarrow.csv.read_csv(path, convert_options=texts), path, column)
        else:
            ids = pa.array(path.read_text(encoding="utf-8-sig").splitlines(), pa.string())
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{path} cannot be read as a list of {column}: {error}. Give a file of one id a line."
        ) from error
    ids = pc.utf8_trim_whitespace(ids)
    is_id = pc.and_(pc.not_equal(ids, ""), pc.not_equal(ids, column))  # a header line may stand above ids
    return pc.unique(ids.filter(is_id.fill_null(False)))


def _column(table: pa.Table, path: Path, column: str) -> pa.Array:
    if column not in table.column_names:
        raise UserError(f"{path}: no column '{column}'. It has {', '.join(table.column_names)}. Rename one.")
    return pa.chunked_array(table[column]).cast(pa.string()).combine_chunks()


def allowed_items(data: TrainingSet, allow: pa.Array | None, deny: pa.Array | None) -> Bools:
    """Return (items + 1,): what may be recommended. `allow` and `deny` are item ids; None: all, and none.

    Raises UserError where `allow` names no item of the catalogue.
    """
    allowed = np.ones(data.n_items + 1, np.bool_)
    if allow is not None:
        allowed = _among(data, allow)
        if not allowed.any():
            raise UserError(f"None of the {len(allow):,} ids to allow is an item of the catalogue. Correct the list.")
    return allowed if deny is None else allowed & ~_among(data, deny)


def _among(data: TrainingSet, ids: pa.Array) -> Bools:
    found: Bools = pc.is_in(data.item_ids, value_set=ids, skip_nulls=True).to_numpy(zero_copy_only=False)
    return found
