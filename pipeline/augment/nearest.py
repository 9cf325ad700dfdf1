"""Find the catalogue item that a text means: the nearest, and of nearly equal ones the one that is likeliest chosen."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from pipeline.llm.cooccurrence import Lists, Neighbours
from pipeline.vectors.catalogue import DECIMALS, Catalogue, blocks
from pipeline.vectors.neighbours import Index

NEAREST = 32
"""Items that are looked at for a text; where the user's shown part holds all of them, all items are."""
REMEMBERED = 100_000
"""Texts whose nearest items are held for the next call, some 70 MB; then it begins anew."""
TIE = 0.02
"""Cosine by which an item may be farther than the nearest and still be what a title means: shops sell many alike."""


class RaggedRows:
    """A list of catalogue rows per user, from 0."""

    def __init__(self, users: np.ndarray, values: np.ndarray, count: int) -> None:
        """`users` (n,), below `count`, are those of the `values` (n,)."""
        order = np.argsort(users, kind="stable")
        self._lists, self._values = Lists(users[order], count), values[order]

    def of(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of the lists of `users`, one list after the other, and which of `users` each is of."""
        places, of = self._lists.of(users)
        return self._values[places], of


class Nearest:
    """The items with text of one domain, to be found by a vector. A letter K stands for at most NEAREST of them."""

    def __init__(self, catalogue: Catalogue, domain: str, vectors: np.ndarray, index: Index | None) -> None:
        """`vectors` (n, d) are those of the items, over which `index` is."""
        self._catalogue, self._domain, self._vectors, self._index = catalogue, domain, vectors, index
        self._items = catalogue.texts_of(domain)
        self._known: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # by text, (K,) each

    def find(
        self, texts: Sequence[str], vectors: np.ndarray, users: np.ndarray, names: pl.Series, shown: RaggedRows,
        neighbours: Neighbours,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Return the row of the catalogue (-1: none) and the cosine of each of the `texts`, of `vectors` (A, d).

        `users` (A,) are rows of `shown`, what prompts show of them and is never found; `names` (A,) their ids. Of items
        within TIE of the nearest the one is found that most users who share items with the user chose, then the most
        popular, then the nearest.
        """
        if not len(self._items) or not len(vectors):
            return np.full(len(vectors), -1), np.full(len(vectors), np.nan)
        rows, scores = self._near_texts(texts, vectors)
        scores = np.where(self._is_open(rows, users, shown), scores, -np.inf)
        for answer in np.flatnonzero(~np.isfinite(scores).any(axis=1)):
            rows[answer], scores[answer] = self._open_only(vectors[answer], users[answer], shown)
        best = scores.max(axis=1)
        answer, column = np.nonzero((scores >= best[:, None] - TIE) & np.isfinite(scores))
        pairs = pl.DataFrame({"answer": answer, "item": rows[answer, column], "cosine": scores[answer, column]})
        chosen = self._first(pairs, names, neighbours)
        found, cosine = np.full(len(vectors), -1), np.full(len(vectors), np.nan)
        found[chosen["answer"]], cosine[chosen["answer"]] = chosen["item"], chosen["cosine"]
        return found, cosine

    def _near_texts(self, texts: Sequence[str], vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what `_near` does of each text, (A, K) and (A, K); the catalogue is gone through once for a text."""
        first: dict[str, int] = {}
        for place, text in enumerate(texts):
            first.setdefault(text, place)
        new = [text for text in first if text not in self._known]
        if new:
            self._known |= zip(new, zip(*self._near(vectors[[first[text] for text in new]]), strict=True), strict=True)
        rows, scores = (np.stack(each) for each in zip(*(self._known[text] for text in texts), strict=True))
        if len(self._known) > REMEMBERED:
            self._known = {}
        return rows, scores

    def _near(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (T, K) of the nearest items, -1 where there is none, and their cosines."""
        count = min(NEAREST, len(self._items))
        if self._index is not None:
            places, scores = self._index.search(vectors, count)
            return np.where(places < 0, -1, self._items[places]), np.round(scores, DECIMALS)
        rows, found = np.empty((len(vectors), count), np.int64), np.empty((len(vectors), count))
        for block in blocks(len(vectors), len(self._items)):
            scores = np.round(vectors[block] @ self._vectors.T, DECIMALS)
            places = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            rows[block], found[block] = self._items[places], np.take_along_axis(scores, places, axis=1)
        return rows, found

    def _is_open(self, rows: np.ndarray, users: np.ndarray, shown: RaggedRows) -> np.ndarray:
        held, owner = shown.of(users)
        size = len(self._catalogue.vectors)
        taken = (owner * size + held)[held >= 0]
        return (rows >= 0) & ~np.isin(np.arange(len(rows))[:, None] * size + rows, taken)

    def _open_only(self, vector: np.ndarray, user: int, shown: RaggedRows) -> tuple[np.ndarray, np.ndarray]:
        """Return what `_near` does of one vector, (K,) and (K,), without the items that the user's shown part holds."""
        held, _ = shown.of(np.array([user]))
        scores = np.round(self._vectors @ vector, DECIMALS).astype(np.float64)
        scores[np.isin(self._items, held)] = -np.inf
        places = np.argsort(-scores, kind="stable")[: min(NEAREST, len(self._items))]
        return self._items[places], scores[places]

    def _first(self, pairs: pl.DataFrame, names: pl.Series, neighbours: Neighbours) -> pl.DataFrame:
        """Return one of the pairs (answer, item, cosine) of each answer."""
        alone = pl.len().over("answer") == 1
        ties = pairs.filter(~alone)
        if ties.is_empty():
            return pairs
        ids = pl.Series(pl.from_arrow(self._catalogue.item_ids.take(ties["item"].to_arrow())))
        named = ties.with_columns(user_id=names[ties["answer"]], domain=pl.lit(self._domain), item_id=ids)
        keys = ["user_id", "domain", "item_id"]
        rated = named.join(neighbours.rate(named.select(keys).unique(maintain_order=True)), on=keys)
        order = ["answer", "shared", "popularity", "cosine", "item"]
        best = rated.sort(order, descending=[False, True, True, True, False]).unique("answer", keep="first")
        return pl.concat([pairs.filter(alone), best.select(pairs.columns)])
