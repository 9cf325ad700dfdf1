"""Answers without a language model: what users who share a user's items chose in the other domain.

It is the baseline that a language model must beat. What is popular fills up where too few users share an item.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.histories import prompt_visible, training_prefix
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

HOLDERS = 1000
"""Users that one item is followed to at most, those that chose it last before the prompt."""
POPULAR_BINS = 64
"""Times at which popularity is counted, about: a prompt sees the last one before it."""
HALF_LIFE_DAYS = 30.0
"""An action counts half in popularity after this number of days."""
USERS_AT_ONCE = 256


class Cooccurrence:
    """A `Generator` that answers from the training actions of other users that are no later than the prompt.

    An item's score is the sum over the user's items, as far as prompts show them, and over their other holders who also
    chose it, of 1 / sqrt(holders): an item that everybody has says little. Profiles are those of `retrieval`.
    """

    asks_model = False
    reads: tuple[str, ...] = ("items", "sequences")
    last_words = ""
    identity: Mapping[str, Any] = {"model": "cooccurrence"}

    def __init__(self, prompt_share: float) -> None:
        """`prompt_share` is the share of a training prefix that prompts may show."""
        self._prompt_share = prompt_share

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """How much of a history is seen; the histories are an input of the stage."""
        return {"prompt_share": self._prompt_share}

    @property
    def tokens(self) -> Tokens:
        """No prompt is read: four characters are a token."""
        return BY_CHARACTERS

    def read(self, tables: Mapping[str, pa.Table]) -> None:
        """Answer from these histories."""
        self._titles = titles_of(tables["items"], tables["items"]["item_id"])
        self._neighbours = Neighbours(tables["sequences"], self._prompt_share, set(self._titles))

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order."""
        items = self._neighbours.items([each.question for each in requests if isinstance(each.question, ItemsQuestion)])
        replies = [self._answer(request, items) for request in requests]
        for index, reply in enumerate(replies):
            on_reply(index, reply)
        return replies

    def counts(self) -> dict[str, Any]:
        """Count nothing."""
        return {}

    def close(self, patience: float = 0) -> None:
        """Do nothing: no process and no connection is held."""

    def _answer(self, request: Request, items: Mapping[tuple[str, str], list[str]]) -> Reply:
        match request.question:
            case ItemsQuestion(user_id=user, to_domain=domain, answers=answers):
                ids = items[user, domain][:answers]
                if not ids:
                    return Reply(None, error="no_items")
                longest = request.schema["properties"]["items"]["items"]["maxLength"]
                named = {self._titles[item_id][:longest].strip(): item_id for item_id in reversed(ids)}
                best = sorted(
                    named.items(), key=lambda pair: ids.index(pair[1])
                )  # of two items with one title the first
                reply = json.dumps({"items": [title for title, _ in best]}, ensure_ascii=False)
                return Reply(reply, item_ids=tuple(item_id for _, item_id in best))
            case DomainProfileQuestion() as question:
                text = domain_profile(question)
            case UserProfileQuestion(summaries=summaries):
                text = user_profile(summaries)
        longest = request.schema["properties"]["profile"]["maxLength"]
        return Reply(json.dumps({"profile": shortened(text, longest)}, ensure_ascii=False))


class Neighbours:
    """The training actions of all users, and what those near a user chose; only titled items are answers."""

    def __init__(self, sequences: pa.Table, prompt_share: float, titled: set[str]) -> None:
        known = training_prefix(sequences).select("row", "item_id", "domain", "timestamp")
        self._items = pl.Series("item_id", sorted(set(known["item_id"])), dtype=pl.String)
        self._users = {user: row for row, user in enumerate(sequences["user_id"].to_pylist())}
        number = pl.col("item_id").replace_strict(self._items, range(len(self._items)), return_dtype=pl.Int64)
        actions = known.select(
            "row", "domain", "timestamp", number.alias("item"), pl.col("item_id").is_in(titled).alias("titled")
        )
        self._actions = actions.unique(["row", "item"], keep="first", maintain_order=True)
        visible = prompt_visible(sequences, prompt_share)
        self._visible = visible.select("row", number.alias("item")).unique(maintain_order=True)
        self._prompted = visible.group_by("row").agg(prompt=pl.col("timestamp").last())
        holders = self._actions.group_by("item").agg(holders=pl.len())
        self._weighted = self._actions.join(holders, on="item").with_columns(weight=1 / pl.col("holders").sqrt())
        self._popular: dict[str, tuple[np.ndarray, list[list[int]]]] = {}

    def items(self, questions: Sequence[ItemsQuestion]) -> dict[tuple[str, str], list[str]]:
        """Return for each (user, target domain) asked the item ids, best first, none that prompts show."""
        found: dict[tuple[str, str], list[str]] = {}
        asked = {(question.to_domain, self._users[question.user_id]): question.answers for question in questions}
        names = {self._users[question.user_id]: question.user_id for question in questions}
        for domain in sorted({domain for domain, _ in asked}):
            rows = sorted(row for where, row in asked if where == domain)
            most = max(answers for (where, _), answers in asked.items() if where == domain)
            for first in range(0, len(rows), USERS_AT_ONCE):
                for row, items in self._best(rows[first : first + USERS_AT_ONCE], domain, most).items():
                    found[names[row], domain] = [self._items[item] for item in items]
        return found

    def _best(self, rows: list[int], domain: str, most: int) -> dict[int, list[int]]:
        """Return the `most` best items of a domain for some users, filled up with what is popular."""
        users = pl.DataFrame({"row": rows}, schema={"row": pl.Int64}).join(
            self._prompted, on="row", maintain_order="left"
        )
        shown = self._visible.join(users, on="row")
        holders = (
            shown.join(self._weighted.select("item", "weight", other="row", chosen="timestamp"), on="item")
            .filter((pl.col("other") != pl.col("row")) & (pl.col("chosen") <= pl.col("prompt")))
            .sort("row", "item", "chosen", "other")
            .group_by("row", "item", maintain_order=True)
            .tail(HOLDERS)
        )
        near = holders.group_by("row", "other").agg(pl.col("weight").sum(), pl.col("prompt").first())
        theirs = self._actions.filter((pl.col("domain") == domain) & pl.col("titled"))
        scored = (
            near.join(theirs.select("item", "timestamp", other="row"), on="other")
            .filter(pl.col("timestamp") <= pl.col("prompt"))
            .group_by("row", "item")
            .agg(score=pl.col("weight").sum().round(6))
            .join(shown.select("row", "item"), on=["row", "item"], how="anti")
            .sort("row", "score", "item", descending=[False, True, False])
            .group_by("row", maintain_order=True)
            .head(most)
        )
        best: dict[int, list[int]] = {row: [] for row in rows}
        for row, item in scored.select("row", "item").iter_rows():
            best[row].append(item)
        held = {row: set(items) for row, items in shown.group_by("row").agg("item").iter_rows()}
        for row, prompt in users.iter_rows():
            if len(best[row]) < most:
                taken = held.get(row, set()) | set(best[row])
                fill = (item for item in self._popular_at(domain, prompt) if item not in taken)
                best[row] += [item for item, _ in zip(fill, range(most - len(best[row])), strict=False)]
        return best

    def _popular_at(self, domain: str, time: Any) -> list[int]:
        """Return the items of a domain by recent popularity at the last counted time before `time`, best first."""
        if domain not in self._popular:
            theirs = self._actions.filter((pl.col("domain") == domain) & pl.col("titled")).sort("timestamp")
            times = theirs["timestamp"].dt.epoch("ms").to_numpy()
            edges = np.unique(times[:: max(1, len(times) // POPULAR_BINS)])
            items, ranked = theirs["item"].to_numpy(), []
            for edge in edges:
                before = times <= edge
                worth = np.exp2((times[before] - edge) / (HALF_LIFE_DAYS * 86_400_000))
                counts = np.bincount(items[before], weights=worth, minlength=len(self._items))
                order = np.lexsort((np.arange(len(counts)), -counts))
                ranked.append([int(item) for item in order[: 4 * HOLDERS] if counts[item] > 0])
            self._popular[domain] = edges, ranked
        edges, ranked = self._popular[domain]
        at = int(np.searchsorted(edges, time.timestamp() * 1000, side="right")) - 1 if time is not None else -1
        return ranked[at] if at >= 0 else []
