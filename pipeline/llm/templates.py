"""What generators without a language model share: profiles by template, and nothing to open, count or close."""

import json
from collections.abc import Sequence
from typing import Any

from data_lake.keyed_cache import KeyedCache
from pipeline.llm.generator import (
    DomainProfileQuestion,
    DomainSummary,
    ItemsQuestion,
    OnReply,
    Reply,
    Request,
    Tokens,
    UserProfileQuestion,
    no_listener,
)
from pipeline.llm.tokens import BY_CHARACTERS

GROUPS, TITLES_PER_GROUP = 3, 1
"""How much a profile by template says: its text is embedded, and long texts cost minutes on a CPU."""


class TemplateGenerator:
    """The part of a `Generator` that asks no language model: profiles by template, items as a subclass has them."""

    asks_model = False
    last_words = ""

    @property
    def tokens(self) -> Tokens:
        """No prompt is read: four characters are a token."""
        return BY_CHARACTERS

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order."""
        asked = [(each, each.question) for each in requests if isinstance(each.question, ItemsQuestion)]
        longest = [request.schema["properties"]["items"]["items"]["maxLength"] for request, _ in asked]
        items = iter(self._items([question for _, question in asked], longest))
        replies = [next(items) if isinstance(each.question, ItemsQuestion) else _profile(each) for each in requests]
        for index, reply in enumerate(replies):
            on_reply(index, reply)
        return replies

    def remember_in(self, cache: KeyedCache) -> None:
        """Do nothing: nothing is sent."""

    def counts(self) -> dict[str, Any]:
        """Count nothing."""
        return {}

    def close(self, patience: float = 0) -> None:
        """Do nothing: no process and no connection is held."""

    def _items(self, questions: Sequence[ItemsQuestion], longest: Sequence[int]) -> list[Reply]:
        """Return a reply per question, whose texts have at most `longest` characters."""
        raise NotImplementedError


def items_reply(texts: Sequence[str], item_ids: Sequence[str] = ()) -> Reply:
    """Return a reply of item descriptions, of the catalogue's items `item_ids` where these are known."""
    return Reply(json.dumps({"items": list(texts)}, ensure_ascii=False), item_ids=tuple(item_ids))


def domain_profile(question: DomainProfileQuestion) -> str:
    """Say what the user's largest groups of items in a domain are, by a title of each."""
    groups = sorted((group for group in question.groups if group), key=len, reverse=True)
    if not groups:
        return f"{question.domain}: nothing is known."
    known = "inferred, no action yet" if question.inferred else f"{question.evidence} actions"
    opening = f"{question.domain} ({known}): mostly "
    words = question.words - len(opening.split())
    likes: list[str] = []
    for titles in groups[:GROUPS]:
        like = " and ".join(dict.fromkeys(titles[:TITLES_PER_GROUP]))
        words -= len(like.split())
        if likes and words < 0:
            break
        likes.append(like)
    return opening + "; ".join(likes) + "."


def user_profile(summaries: Sequence[DomainSummary]) -> str:
    """Put the domains' profiles one after the other, the best known first; an inferred one only where all are."""
    known = [summary for summary in summaries if summary.evidence] or list(summaries)
    return " ".join(summary.text for summary in sorted(known, key=lambda summary: -summary.evidence))


def shortened(text: str, longest: int | None) -> str:
    """Return the text, cut to `longest` characters."""
    return text if longest is None or len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _profile(request: Request) -> Reply:
    match request.question:
        case DomainProfileQuestion() as question:
            text = domain_profile(question)
        case UserProfileQuestion(summaries=summaries):
            text = user_profile(summaries)
    text = shortened(text, request.schema["properties"]["profile"].get("maxLength"))
    return Reply(json.dumps({"profile": text}, ensure_ascii=False))
