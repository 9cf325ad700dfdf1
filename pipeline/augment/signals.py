"""What can be told of an item and a user from the data alone, before anybody says what it means."""

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.frames import frame_of
from pipeline.llm.cooccurrence import Neighbours
from pipeline.vectors.catalogue import Catalogue

SIGNALS = ("shared", "popularity", "text")
DECIMALS = 5
"""Cosines are rounded, so that how rows were blocked decides nothing."""
PAIRS_AT_ONCE = 1 << 16


class Signals:
    """Measures pairs of user and item by co-occurrence, popularity and text, from what prompts show of the user."""

    def __init__(self, catalogue: Catalogue, neighbours: Neighbours, representatives: pa.Table) -> None:
        self._catalogue, self._neighbours = catalogue, neighbours
        known = frame_of(representatives).select("user_id", item="item_ids").explode("item").drop_nulls()
        self._representatives = known.with_columns(shown=pl.Series(catalogue.rows(known["item"].to_arrow())))

    def of(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """Return pairs (user_id, domain, item_id) with the columns of SIGNALS, in their order.

        `shared` and `popularity` are those of `Neighbours.rate`; `text` is the cosine of the item with the nearest of
        the user's representatives, -1 without one.
        """
        distinct = pairs.select("user_id", "domain", "item_id").unique(maintain_order=True)
        rated = self._neighbours.rate(distinct)
        measured = rated.with_columns(text=pl.Series(self._cosines(rated), dtype=pl.Float64))
        return pairs.join(measured, on=["user_id", "domain", "item_id"], how="left", maintain_order="left")

    def _cosines(self, pairs: pl.DataFrame) -> np.ndarray:
        numbered = pairs.select("user_id", row=pl.int_range(pl.len()))
        numbered = numbered.with_columns(item=pl.Series(self._catalogue.rows(pairs["item_id"].to_arrow())))
        nearest = np.full(len(pairs), -1.0)
        for first in range(0, len(pairs), PAIRS_AT_ONCE):
            both = numbered[first : first + PAIRS_AT_ONCE].join(self._representatives, on="user_id")
            vectors = self._catalogue.vectors
            cosines = np.einsum("nd,nd->n", vectors[both["item"].to_numpy()], vectors[both["shown"].to_numpy()])
            np.maximum.at(nearest, both["row"].to_numpy(), cosines)
        return np.round(nearest, DECIMALS)
