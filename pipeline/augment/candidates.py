"""Real items that a language model may choose from or rate, where it is not to write titles of its own."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest

from pipeline.llm.generator import ItemSource, ItemsQuestion


class Candidates:
    """Draws the candidates of questions from several sources in turns."""

    def __init__(self, sources: Sequence[ItemSource], titles: Mapping[str, str], count: int, seed: int) -> None:
        """`titles` name the items; one without a title is no candidate, and of two with one title the first is."""
        self._sources, self._titles, self._count, self._seed = sources, titles, count, seed

    def of(self, questions: Sequence[ItemsQuestion]) -> list[list[str]]:
        """Return at most `count` item ids for each question, in an order that the hash of seed and user tells."""
        wide = [replace(question, answers=self._count) for question in questions]
        found = [source(wide) for source in self._sources]
        return [self._drawn(question, lists) for question, *lists in zip(questions, *found, strict=True)]

    def _drawn(self, question: ItemsQuestion, lists: Sequence[Sequence[str]]) -> list[str]:
        by_title: dict[str, str] = {}
        for item_id in chain.from_iterable(zip_longest(*lists)):
            if item_id in self._titles and item_id not in question.item_ids:
                by_title.setdefault(self._titles[item_id], item_id)
        drawn = list(by_title.values())[: self._count]
        mark = f"{self._seed}\0{question.user_id}\0{question.to_domain}"
        random.Random(hashlib.sha256(mark.encode()).digest()).shuffle(drawn)
        return drawn
