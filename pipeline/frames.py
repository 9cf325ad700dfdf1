"""From Arrow tables to polars frames and back."""

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.schemas import Artifact
from data_lake.tables import check, empty


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
    """Return the frame as the artifact's table."""
    if not len(frame):
        return empty(artifact)
    return check(pa.concat_tables(part.to_arrow() for part in frame.iter_slices(1_000_000)), artifact)
