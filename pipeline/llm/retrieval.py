"""Answers without a language model: nearest neighbours in the catalogue, and templates.

It is the baseline that a language model must beat, and what a machine without one runs.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.llm.generator import (
    DomainProfileQuestion,
    ItemsQuestion,
    OnReply,
    Reply,
    Request,
    Tokens,
    UserProfileQuestion,
    no_listener,
)
from pipeline.llm.prompts import titles_of
from pipeline.llm.templates import domain_profile, shortened, user_profile
from pipeline.llm.tokens import BY_CHARACTERS
from pipeline.vectors.catalogue import Catalogue
from pipeline.vectors.neighbours import Index, build, recall

SCORES_PER_BLOCK = 16_000_000


class Retrieval:
    """A `Generator` that answers each request's question from the catalogue.

    Items: the ones of the target domain nearest to the user's representative items, in turns: the nearest of the
    first, of the second, ..., then the second nearest of each, no text twice. Profiles: a few words by template.
    """

    asks_model = False
    reads: tuple[str, ...] = ("items", "item_embeddings")
    last_words = ""

    def __init__(self, exact_up_to: int = 500_000) -> None:
        """With more than `exact_up_to` different titles in a domain an index finds the nearest."""
        self._exact_up_to = exact_up_to
        self._domains: dict[str, tuple[list[str], np.ndarray, Index | None]] = {}

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name, and the model whose vectors decide what is near."""
        return {"model": "retrieval", "embedding": self._catalogue.model, "revision": self._catalogue.revision}

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """From how many items on an index is asked; the vectors are an input of the stage."""
        return {"exact_up_to": self._exact_up_to}

    @property
    def tokens(self) -> Tokens:
        """No prompt is read: four characters are a token."""
        return BY_CHARACTERS

    def read(self, tables: Mapping[str, pa.Table]) -> None:
        """Answer from this catalogue."""
        self._catalogue = Catalogue.of(tables["item_embeddings"])
        self._titles = titles_of(tables["items"], tables["items"]["item_id"])
        self._domains = {}

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order."""
        nearest = self._nearest([each.question for each in requests if isinstance(each.question, ItemsQuestion)])
        replies = [self._answer(request, nearest) for request in requests]
        for index, reply in enumerate(replies):
            on_reply(index, reply)
        return replies

    def counts(self) -> dict[str, Any]:
        """Return how often the indexes found the truly nearest since the last call (see `neighbours.recall`)."""
        return recall(index for _, _, index in self._domains.values())

    def close(self, patience: float = 0) -> None:
        """Do nothing: no process and no connection is held."""

    def _answer(self, request: Request, nearest: Mapping[tuple[str, str], list[str]]) -> Reply:
        answer = request.schema["properties"]
        match request.question:
            case ItemsQuestion(to_domain=domain, item_ids=item_ids, answers=answers):
                lists = [nearest.get((domain, item_id), []) for item_id in item_ids]
                turns = (text for text in chain.from_iterable(zip_longest(*lists)) if text is not None)
                longest = answer["items"]["items"].get("maxLength")
                texts = list(dict.fromkeys(text[:longest].strip() for text in turns))[:answers]
                return _reply({"items": texts}) if texts else Reply(None, error="no representative item has a text")
            case DomainProfileQuestion() as question:
                text = domain_profile(question)
            case UserProfileQuestion(summaries=summaries):
                text = user_profile(summaries)
        return _reply({"profile": shortened(text, answer["profile"].get("maxLength"))})

    def _nearest(self, questions: Sequence[ItemsQuestion]) -> dict[tuple[str, str], list[str]]:
        """Return for each (target domain, representative item) the nearest texts of the domain, nearest first."""
        found: dict[tuple[str, str], list[str]] = {}
        for domain in sorted({question.to_domain for question in questions}):
            here = [question for question in questions if question.to_domain == domain]
            ids = sorted({item_id for question in here for item_id in question.item_ids})
            rows = self._catalogue.rows(pa.array(ids, pa.string()))
            known = [i for i, row in enumerate(rows) if row >= 0 and self._catalogue.has_text[row]]
            texts, vectors, index = self._texts(domain)
            queries, k = self._catalogue.vectors[rows[known]], max(question.answers for question in here)
            best = nearest_rows(queries, vectors, k) if index is None else index.search(queries, k)[0]
            for i, nearest in zip(known, best, strict=True):
                found[domain, ids[i]] = [texts[row] for row in nearest if row >= 0]
        return found

    def _texts(self, domain: str) -> tuple[list[str], np.ndarray, Index | None]:
        """Return the domain's different titles, a vector for each (its first item's), and an index of many."""
        if domain not in self._domains:
            rows: dict[str, int] = {}
            for row in self._catalogue.texts_of(domain):
                rows.setdefault(self._titles[self._catalogue.item_ids[row].as_py()], row)
            vectors = self._catalogue.vectors[list(rows.values())]
            self._domains[domain] = list(rows), vectors, build(vectors, self._exact_up_to)
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


def _reply(answer: Mapping[str, Any]) -> Reply:
    return Reply(json.dumps(answer, ensure_ascii=False))
