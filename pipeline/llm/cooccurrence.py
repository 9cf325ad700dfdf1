"""Answers without a language model: what users who share a user's items chose in the other domain.

It is the baseline that a language model must beat. What is popular fills up where too few users share an item.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.histories import prompt_visible, training_prefix, with_probes
from pipeline.llm.generator import ItemsQuestion, Reply
from pipeline.llm.prompts import titles_of
from pipeline.llm.templates import TemplateGenerator, items_reply

HOLDERS = 1000
"""Users that one item is followed to at most, those that chose it last before the prompt."""
POPULAR_BINS = 64
"""Times at which popularity is counted, about: a prompt sees the last one before it."""
HALF_LIFE_DAYS = 30.0
"""An action counts half in popularity after this number of days."""
USERS_AT_ONCE = 256


class Cooccurrence(TemplateGenerator):
    """A `Generator` that answers from the training actions of other users that are no later than the prompt.

    An item's score is the sum over the user's items, as far as prompts show them, and over their other holders who also
    chose it, of 1 / sqrt(holders): an item that everybody has says little. Profiles are those of `retrieval`.
    """

    reads: tuple[str, ...] = ("items", "sequences", "probes")
    identity: Mapping[str, Any] = {"model": "cooccurrence"}

    def __init__(self, prompt_share: float) -> None:
        """`prompt_share` is the share of a training prefix that prompts may show."""
        self._prompt_share = prompt_share

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """How much of a history is seen; the histories are an input of the stage."""
        return {"prompt_share": self._prompt_share}

    def read(self, tables: Mapping[str, pa.Table]) -> None:
        """Answer from these histories."""
        self._titles = titles_of(tables["items"], tables["items"]["item_id"])
        self._neighbours = Neighbours(tables["sequences"], tables["probes"], self._prompt_share, set(self._titles))

    def _items(self, questions: Sequence[ItemsQuestion], longest: Sequence[int]) -> list[Reply]:
        found = self._neighbours.items(questions)
        replies = []
        for question, length in zip(questions, longest, strict=True):
            named: dict[str, str] = {}  # of two items with one title the first
            for item_id in found[question.user_id, question.to_domain][: question.answers]:
                named.setdefault(self._titles[item_id][:length].strip(), item_id)
            replies.append(items_reply(list(named), list(named.values())) if named else Reply(None, error="no_items"))
        return replies


class Neighbours:
    """The training actions of all users, and what those near a user chose; only titled items are answers."""

    def __init__(self, sequences: pa.Table, probes: pa.Table, prompt_share: float, titled: set[str]) -> None:
        """Probes are asked for like users; the actions of the users that they are made of count as their own."""
        known = training_prefix(sequences)
        ids = sorted(set(known["item_id"]))
        self._item_ids = pl.Series("item_id", ids, dtype=pl.String)
        number = pl.col("item_id").replace_strict(self._item_ids, range(len(ids)), return_dtype=pl.Int64)
        self._actions = known.select(
            "row", "domain", "timestamp", item=number, titled=pl.col("item_id").is_in(titled)
        ).unique(["row", "item"], keep="first", maintain_order=True)
        holders = self._actions.group_by("item").agg(holders=pl.len())
        self._holders = self._actions.join(holders, on="item").select(
            "item", other="row", chosen="timestamp", weight=1 / pl.col("holders").sqrt()
        )
        everybody = with_probes(sequences, probes)
        real = {user: row for row, user in enumerate(sequences["user_id"].to_pylist())}
        owners = [*real.values(), *(real[user] for user in probes["real_user_id"].to_pylist())]
        self._rows = {user: row for row, user in enumerate(everybody["user_id"].to_pylist())}
        visible = prompt_visible(everybody, prompt_share)
        prompts = visible.group_by("row").agg(prompt=pl.col("timestamp").last())
        rows = pl.DataFrame({"row": range(len(owners)), "owner": owners}, schema={"row": pl.Int64, "owner": pl.Int64})
        self._asked = rows.join(prompts, on="row", how="left", maintain_order="left")
        self._visible = visible.select("row", item=number).unique(maintain_order=True)
        self._popular: dict[str, tuple[np.ndarray, list[list[int]]]] = {}

    def items(self, questions: Sequence[ItemsQuestion], by_neighbours: bool = True) -> dict[tuple[str, str], list[str]]:
        """Return for each (user, target domain) asked the item ids, best first, none that prompts show.

        Without `by_neighbours` they are the popular ones alone.
        """
        found: dict[tuple[str, str], list[str]] = {}
        for domain in sorted({question.to_domain for question in questions}):
            here = [question for question in questions if question.to_domain == domain]
            most = max(question.answers for question in here)
            users = {self._rows[question.user_id]: question.user_id for question in here}
            rows = sorted(users)
            for first in range(0, len(rows), USERS_AT_ONCE):
                best = self._best(rows[first : first + USERS_AT_ONCE], domain, most, by_neighbours)
                found |= {(users[row], domain): [self._item_ids[item] for item in items] for row, items in best.items()}
        return found

    def _best(self, rows: list[int], domain: str, most: int, by_neighbours: bool) -> dict[int, list[int]]:
        """Return the `most` best items of a domain for some users, filled up with what is popular."""
        users = self._asked[rows]
        shown = self._visible.join(users, on="row")
        best: dict[int, list[int]] = {row: [] for row in rows}
        if by_neighbours:
            for row, item in self._scored(shown, domain, most).iter_rows():
                best[row].append(item)
        held = {row: set(items) for row, items in shown.group_by("row").agg("item").iter_rows()}
        for row, prompt in users.select("row", "prompt").iter_rows():
            if len(best[row]) < most:
                taken = held.get(row, set()) | set(best[row])
                fill = (item for item in self._popular_at(domain, prompt) if item not in taken)
                best[row] += islice(fill, most - len(best[row]))
        return best

    def _scored(self, shown: pl.DataFrame, domain: str, most: int) -> pl.DataFrame:
        """Return (row, item), best first per row, of what the other holders of the shown items chose in a domain."""
        holders = (
            shown.join(self._holders, on="item")
            .filter((pl.col("other") != pl.col("owner")) & (pl.col("chosen") <= pl.col("prompt")))
            .sort("row", "item", "chosen", "other")
            .group_by("row", "item", maintain_order=True)
            .tail(HOLDERS)
        )
        near = holders.group_by("row", "other").agg(pl.col("weight").sum(), pl.col("prompt").first())
        theirs = self._actions.filter((pl.col("domain") == domain) & pl.col("titled"))
        return (
            near.join(theirs.select("item", "timestamp", other="row"), on="other")
            .filter(pl.col("timestamp") <= pl.col("prompt"))
            .group_by("row", "item")
            .agg(score=pl.col("weight").sum().round(6))
            .join(shown.select("row", "item"), on=["row", "item"], how="anti")
            .sort("row", "score", "item", descending=[False, True, False])
            .group_by("row", maintain_order=True)
            .head(most)
            .select("row", "item")
        )

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
                counts = np.bincount(items[before], weights=worth, minlength=len(self._item_ids))
                order = np.lexsort((np.arange(len(counts)), -counts))
                ranked.append([int(item) for item in order[: 4 * HOLDERS] if counts[item] > 0])
            self._popular[domain] = edges, ranked
        edges, ranked = self._popular[domain]
        at = int(np.searchsorted(edges, time.timestamp() * 1000, side="right")) - 1 if time is not None else -1
        return ranked[at] if at >= 0 else []
