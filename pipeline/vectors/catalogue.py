"""The catalogue's vectors as one matrix, and the way from item ids to its rows."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BLOCK_NUMBERS = 1 << 24
DECIMALS = 5
"""Cosines are rounded, so that how rows were blocked decides nothing."""


@dataclass(frozen=True)
class Catalogue:
    """Every item of the catalogue, one row each, in the order of `item_embeddings`.

    Letters: N items, d numbers in a vector.
    """

    item_ids: pa.Array  # (N,) string
    domains: np.ndarray  # (N,) str
    vectors: np.ndarray  # (N, d) float32 of length one; zero where the item has no text
    has_text: np.ndarray  # (N,) bool
    model: str
    revision: str

    @classmethod
    def of(cls, item_embeddings: pa.Table) -> "Catalogue":
        """Read the table ITEM_EMBEDDINGS."""
        vectors, has_text = matrix(item_embeddings["vector"])
        known = item_embeddings.num_rows > 0
        return cls(
            item_ids=item_embeddings["item_id"].combine_chunks(),
            domains=np.asarray(item_embeddings["domain"].to_pylist(), dtype=str),
            vectors=vectors,
            has_text=has_text,
            model=item_embeddings["model"][0].as_py() if known else "",
            revision=item_embeddings["revision"][0].as_py() if known else "",
        )

    def rows(self, item_ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return each item's row; -1 where the catalogue does not hold it."""
        found = pc.index_in(item_ids, value_set=self.item_ids).fill_null(-1)
        return np.asarray(found.to_numpy(), dtype=np.int64)

    def texts_of(self, domain: str) -> np.ndarray:
        """Return the rows of the domain's items that have a text, in rising order."""
        return np.flatnonzero((self.domains == domain) & self.has_text)


def matrix(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return a vector column as (rows, d) float32, zero where it is null, and which rows are not null."""
    kind, lengths = column.type, pc.list_value_length(column).drop_null()
    fixed = pa.types.is_fixed_size_list(kind)
    width = kind.list_size if fixed else lengths[0].as_py() if len(lengths) else 0
    rows, has, end = np.zeros((len(column), width), dtype=np.float32), np.zeros(len(column), dtype=bool), 0
    for chunk in column.chunks:  # all of them put together would be one more copy
        start, end = end, end + len(chunk)
        has[start:end] = chunk.is_valid()
        rows[start:end][has[start:end]] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return rows, has


def vector_column(vectors: np.ndarray, has: np.ndarray | None = None) -> pa.Array:
    """Return (rows, d) numbers as a column of fixed-size lists of float32, null where `has` is False."""
    numbers = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    missing = None if has is None else pa.array(~has)
    return pa.FixedSizeListArray.from_arrays(numbers, vectors.shape[1], mask=missing)


def blocks(rows: int, numbers_per_row: int) -> list[slice]:
    """Return slices over `rows`, each of at most about BLOCK_NUMBERS numbers."""
    size = max(1, BLOCK_NUMBERS // max(numbers_per_row, 1))
    return [slice(first, first + size) for first in range(0, rows, size)]
