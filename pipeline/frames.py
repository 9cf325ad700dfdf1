"""From Arrow tables to polars frames and back."""

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.schemas import Artifact


def frame_of(table: pa.Table) -> pl.DataFrame:
    """Return an Arrow table as a polars frame."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def lists(values: pa.Array, sizes: np.ndarray) -> pa.ListArray:
    """Return consecutive runs of `values`, of the given sizes, as one list each."""
    offsets = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.cumsum(sizes, out=offsets[1:])
    kind = pa.list_(pa.field("item", values.type, nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind)


def to_arrow(frame: pl.DataFrame, artifact: Artifact) -> pa.Table:
    """Return the frame's columns as the artifact's only table, with its types and its order of columns."""
    schema = artifact.tables[""]
    if frame.is_empty():
        return schema.empty_table()
    parts = frame.select(schema.names).iter_slices(1_000_000)  # one of all rows may hold more text than a string array
    return pa.concat_tables(part.to_arrow() for part in parts).cast(schema)
