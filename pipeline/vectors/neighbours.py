"""The nearest of very many vectors by an index of faiss, and how often that is the truly nearest."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from data_lake.errors import UserError

LEARNT = 64
"""Vectors a cell that its centre is learnt from, at most."""
CHECKED = 64
"""Queries of each search that are also answered exactly, to measure the recall."""


class Index:
    """An inverted file (k-means cells, of which the nearest 1 in 32 are searched) over vectors of length one.

    The same vectors make the same index. `checked` and `found` count the queries whose nearest vector was looked up
    exactly as well, and those where the index had found it.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        """`vectors` is (n, d) float32."""
        try:
            import faiss
        except ImportError as error:
            raise UserError(
                f"[enrich] exact_up_to is below the {len(vectors):,} items of a domain, and an index needs faiss: "
                "install the extra `index` (llm-edt[index]), or raise exact_up_to."
            ) from error
        rows, width = vectors.shape
        cells = max(1, min(int(4 * rows**0.5), rows // 39))  # faiss wants 39 vectors a cell to learn it
        self._vectors = vectors
        self._coarse = faiss.IndexFlatIP(width)
        self._index: Any = faiss.IndexIVFFlat(self._coarse, width, cells, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.max_points_per_centroid = LEARNT
        self._index.train(vectors)
        self._index.add(vectors)
        self._index.nprobe = max(8, cells // 32)
        self.checked = self.found = 0

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (Q, k) rows by falling dot product, and the products; -1 and -inf where fewer are found."""
        if not len(queries):
            return np.empty((0, k), dtype=np.int64), np.empty((0, k), dtype=np.float32)
        scores, rows = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        some = np.linspace(0, len(queries) - 1, min(CHECKED, len(queries))).astype(int)
        best = (queries[some] @ self._vectors.T).max(axis=1)
        self.checked += len(some)
        self.found += int((scores[some, 0] >= best - 1e-5).sum())
        return rows.astype(np.int64), np.where(rows < 0, -np.inf, scores)


def build(vectors: np.ndarray, exact_up_to: int) -> Index | None:
    """Return an index of more than `exact_up_to` vectors (n, d), and none of fewer: a matrix product is exact."""
    return Index(vectors) if len(vectors) > exact_up_to else None


def recall(indexes: Iterable[Index | None]) -> dict[str, dict[str, int]]:
    """Return how often indexes were checked and had found the truly nearest since the last call; {} without one."""
    counts, known = {"checked": 0, "found": 0}, [index for index in indexes if index is not None]
    for index in known:
        counts["checked"] += index.checked
        counts["found"] += index.found
        index.checked = index.found = 0
    return {"neighbours": counts} if known else {}
