"""Answers without a language model: nearest neighbours in the catalogue, and templates.

It is the baseline that a language model must beat, and what a machine without one runs.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.llm.generator import ItemsQuestion, Reply
from pipeline.llm.prompts import titles_of
from pipeline.llm.templates import TemplateGenerator, items_reply
from pipeline.vectors.catalogue import Catalogue
from pipeline.vectors.neighbours import Index, build, recall

SCORES_PER_BLOCK = 16_000_000


class Retrieval(TemplateGenerator):
    """A `Generator` that answers each request's question from the catalogue.

    Items: the ones of the target domain nearest to the user's representative items, in turns: the nearest of the
    first, of the second, ..., then the second nearest of each, no text twice. Profiles: a few words by template.
    """

    reads: tuple[str, ...] = ("items", "item_embeddings")

    def __init__(self, exact_up_to: int = 500_000) -> None:
        """With more than `exact_up_to` different titles in a domain an index finds the nearest."""
        self._exact_up_to = exact_up_to
        self._domains: dict[str, tuple[list[str], np.ndarray, Index | None]] = {}
        self._found: dict[tuple[str, int], dict[str, list[str]]] = {}  # by domain and how many, of each item

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name, and the model whose vectors decide what is near."""
        return {"model": "retrieval", "embedding": self._catalogue.model, "revision": self._catalogue.revision}

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """From how many items on an index is asked; the vectors are an input of the stage."""
        return {"exact_up_to": self._exact_up_to}

    def read(self, parts: Mapping[str, Iterable[pa.Table]]) -> None:
        """Answer from this catalogue."""
        self._catalogue = Catalogue.of(pa.concat_tables(parts["item_embeddings"]))
        items = pa.concat_tables(parts["items"])
        self._titles = titles_of(items, items["item_id"])
        self._domains, self._found = {}, {}

    def counts(self) -> dict[str, Any]:
        """Return how often the indexes found the truly nearest since the last call (see `neighbours.recall`)."""
        return recall(index for _, _, index in self._domains.values())

    def items(self, questions: Sequence[ItemsQuestion]) -> list[list[str]]:
        """Return for each question at most as many item ids as it asks for: the nearest, in turns."""
        turns = self._turns(questions)
        return [item_ids[: each.answers] for each, item_ids in zip(questions, turns, strict=True)]

    def _items(self, questions: Sequence[ItemsQuestion], longest: Sequence[int]) -> list[Reply]:
        replies = []
        for question, ids, length in zip(questions, self._turns(questions), longest, strict=True):
            cut = (self._titles[item_id][:length].strip() for item_id in ids)
            texts = list(dict.fromkeys(cut))[: question.answers]
            replies.append(items_reply(texts) if texts else Reply(None, error="no representative item has a text"))
        return replies

    def _turns(self, questions: Sequence[ItemsQuestion]) -> list[list[str]]:
        nearest = self._nearest(questions)
        found = []
        for question in questions:
            lists = [nearest.get((question.to_domain, item_id), []) for item_id in question.item_ids]
            turns = (item_id for item_id in chain.from_iterable(zip_longest(*lists)) if item_id is not None)
            found.append(list(dict.fromkeys(turns)))
        return found

    def _nearest(self, questions: Sequence[ItemsQuestion]) -> dict[tuple[str, str], list[str]]:
        """Return for each (target domain, representative item) the nearest items of the domain, nearest first."""
        found: dict[tuple[str, str], list[str]] = {}
        for domain in sorted({question.to_domain for question in questions}):
            here = [question for question in questions if question.to_domain == domain]
            ids = {item_id for question in here for item_id in question.item_ids}
            nearest = self._nearest_of(domain, ids, max(question.answers for question in here))
            found |= {(domain, item_id): nearest[item_id] for item_id in ids}
        return found

    def _nearest_of(self, domain: str, ids: Set[str], k: int) -> dict[str, list[str]]:
        """Return the k nearest items of the domain of each item, none of one without text; each is looked for once."""
        found = self._found.setdefault((domain, k), {})
        new = sorted(ids - found.keys())
        rows = self._catalogue.rows(pa.array(new, pa.string()))
        known = [i for i, row in enumerate(rows) if row >= 0 and self._catalogue.has_text[row]]
        item_ids, vectors, index = self._texts(domain)
        queries = self._catalogue.vectors[rows[known]]
        best = nearest_rows(queries, vectors, k) if index is None else index.search(queries, k)[0]
        found |= {key: [] for key in new}
        found |= {new[i]: [item_ids[row] for row in near if row >= 0] for i, near in zip(known, best, strict=True)}
        return found

    def _texts(self, domain: str) -> tuple[list[str], np.ndarray, Index | None]:
        """Return the first item of each of the domain's titles, their vectors, and an index of many."""
        if domain not in self._domains:
            rows: dict[str, int] = {}
            for row in self._catalogue.texts_of(domain):
                rows.setdefault(self._titles[self._catalogue.item_ids[row].as_py()], row)
            first = list(rows.values())
            item_ids = self._catalogue.item_ids.take(pa.array(first, pa.int64())).to_pylist()
            vectors = self._catalogue.vectors[first]
            self._domains[domain] = item_ids, vectors, build(vectors, self._exact_up_to)
        return self._domains[domain]


def nearest_rows(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Return (Q, k) rows of `vectors` by falling dot product with each query; at equal scores the lower row first."""
    k = min(k, len(vectors))
    if k == 0 or len(queries) == 0:
        return np.empty((len(queries), k), dtype=np.int64)
    block = max(1, SCORES_PER_BLOCK // len(vectors))
    return np.concatenate(
        [_best(queries[start : start + block] @ vectors.T, k) for start in range(0, len(queries), block)]
    )


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k highest scores of each row, highest first."""
    rows = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    rows.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, rows, axis=1), axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)
