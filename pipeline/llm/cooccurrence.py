"""Answers without a language model: what users who share a user's items chose in the other domain.

It is the baseline that a language model must beat. What is popular fills up where too few users share an item.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.progress import progress
from pipeline.histories import prompt_visible, training_prefix, with_probes
from pipeline.llm.generator import ItemsQuestion, Reply
from pipeline.llm.prompts import titles_of
from pipeline.llm.templates import TemplateGenerator, items_reply

HOLDERS = 1000
"""Users that one item is followed to at most, those that chose it last before the prompt."""
POPULAR_BINS = 64
"""Times at which popularity is counted, about: a prompt sees the last one before it."""
MOST_POPULAR = 4000
"""Items of a domain that are ranked by popularity."""
HALF_LIFE_DAYS = 30.0
"""An action counts half in popularity after this number of days."""
HALF_LIFE = HALF_LIFE_DAYS * 86_400_000
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
        return {"prompt_share": self._prompt_share, "version": 2}

    def read(self, tables: Mapping[str, pa.Table]) -> None:
        """Answer from these histories."""
        self._titles = titles_of(tables["items"], tables["items"]["item_id"])
        self._neighbours = Neighbours(tables["sequences"], tables["probes"], self._prompt_share, set(self._titles))

    def _items(self, questions: Sequence[ItemsQuestion], longest: Sequence[int]) -> list[Reply]:
        asked = len({(question.user_id, question.to_domain) for question in questions})
        with progress("cooccurrence", asked, "lists") as work:
            found = self._neighbours.items(questions, on_found=work.advance)
        replies = []
        for item_ids, length in zip(found, longest, strict=True):
            named: dict[str, str] = {}  # of two items with one title the first
            for item_id in item_ids:
                named.setdefault(self._titles[item_id][:length].strip(), item_id)
            replies.append(items_reply(list(named), list(named.values())) if named else Reply(None, error="no_items"))
        return replies


def titled(items: pa.Table) -> set[str]:
    """Return the items that can be answers: those with a title, or a text in its place."""
    return set(titles_of(items, items["item_id"]))


class Neighbours:
    """The training actions of all users, and what those near a user chose; only titled items are answers."""

    def __init__(self, sequences: pa.Table, probes: pa.Table, prompt_share: float, titled: set[str]) -> None:
        """Probes are asked for like users; the actions of the users that they are made of count as their own."""
        known = training_prefix(sequences)
        ids = sorted(set(known["item_id"]))
        self._item_ids = pl.Series("item_id", ids, dtype=pl.String)
        self._numbers = {item_id: number for number, item_id in enumerate(ids)}
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
        self._popular: dict[str, Popularity] = {}

    def items(
        self,
        questions: Sequence[ItemsQuestion],
        by_neighbours: bool = True,
        on_found: Callable[[int], None] = lambda count: None,
    ) -> list[list[str]]:
        """Return for each question at most as many item ids as it asks for, best first, none that prompts show.

        Without `by_neighbours` they are the popular ones alone. `on_found` gets the number of lists (a user, a domain)
        that were made, some at a time.
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
                on_found(len(best))
        return [found[each.user_id, each.to_domain][: each.answers] for each in questions]

    def rate(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """Add to pairs (user_id, domain, item_id), each once, the columns `shared` and `popularity`, in their order.

        `shared` is the item's score among what users who share items chose; `popularity` is how often it was chosen
        before the prompt, an action of HALF_LIFE_DAYS ago counting half. The user's own actions are left out of both.
        """
        rated = pairs.with_columns(
            row=pl.col("user_id").replace_strict(self._rows, return_dtype=pl.Int64),
            item=pl.col("item_id").replace_strict(self._numbers, default=-1, return_dtype=pl.Int64),
        ).join(self._asked, on="row", how="left", maintain_order="left")
        own = self._actions.select(pl.col("row").alias("owner"), "item", own="timestamp")
        rated = rated.join(own, on=["owner", "item"], how="left", maintain_order="left")
        parts = [rated.select("row", "item", shared=pl.lit(0.0)).clear()]
        for domain, theirs in rated.group_by("domain"):
            rows = theirs["row"].unique().sort().to_list()
            for first in range(0, len(rows), USERS_AT_ONCE):
                users = self._asked[rows[first : first + USERS_AT_ONCE]]
                wanted = theirs.select("row", "item").join(users, on="row", how="semi")
                parts.append(self._shared(self._visible.join(users, on="row"), str(domain[0]), wanted))
        rated = rated.join(pl.concat(parts), on=["row", "item"], how="left", maintain_order="left")
        popularity = np.zeros(len(rated))
        for index, (domain, prompt, item, own_time) in enumerate(
            rated.select("domain", "prompt", "item", "own").iter_rows()
        ):
            popularity[index] = self._popularity(domain).count(item, prompt, own_time)
        return rated.select(*pairs.columns, pl.col("shared").fill_null(0.0), popularity=pl.Series(popularity))

    def _best(self, rows: list[int], domain: str, most: int, by_neighbours: bool) -> dict[int, list[int]]:
        """Return the `most` best items of a domain for some users, filled up with what is popular."""
        users = self._asked[rows]
        shown = self._visible.join(users, on="row")
        best: dict[int, list[int]] = {row: [] for row in rows}
        if by_neighbours:
            scored = self._shared(shown, domain).join(shown.select("row", "item"), on=["row", "item"], how="anti")
            ranked = scored.sort("row", "shared", "item", descending=[False, True, False])
            for row, item in ranked.group_by("row", maintain_order=True).head(most).select("row", "item").iter_rows():
                best[row].append(item)
        held = {row: set(items) for row, items in shown.group_by("row").agg("item").iter_rows()}
        theirs = users.join(self._actions.select(owner="row", own="item", at="timestamp"), on="owner", how="left")
        own = theirs.group_by("row").agg("prompt", "own", "at")
        for row, prompts, items, times in own.iter_rows():
            if len(best[row]) < most:
                taken = held.get(row, set()) | set(best[row])
                mine = dict(zip(items, times, strict=True))
                best[row] += self._popularity(domain).best(prompts[0], most - len(best[row]), taken, mine)
        return best

    def _shared(self, shown: pl.DataFrame, domain: str, wanted: pl.DataFrame | None = None) -> pl.DataFrame:
        """Return (row, item, shared): how much other holders of the shown items chose each titled item of a domain.

        With `wanted` (row, item) only of these.
        """
        holders = (
            shown.join(self._holders, on="item")
            .filter((pl.col("other") != pl.col("owner")) & (pl.col("chosen") <= pl.col("prompt")))
            .sort("row", "item", "chosen", "other")
            .group_by("row", "item", maintain_order=True)
            .tail(HOLDERS)
        )
        near = holders.group_by("row", "other").agg(pl.col("weight").sum(), pl.col("prompt").first())
        theirs = self._actions.filter((pl.col("domain") == domain) & pl.col("titled"))
        chosen = near.join(theirs.select("item", "timestamp", other="row"), on="other").filter(
            pl.col("timestamp") <= pl.col("prompt")
        )
        if wanted is not None:
            chosen = chosen.join(wanted, on=["row", "item"], how="semi")
        return chosen.group_by("row", "item").agg(shared=pl.col("weight").sum().round(6))

    def _popularity(self, domain: str) -> "Popularity":
        if domain not in self._popular:
            theirs = self._actions.filter((pl.col("domain") == domain) & pl.col("titled"))
            self._popular[domain] = Popularity(theirs, len(self._item_ids))
        return self._popular[domain]


class Popularity:
    """How often each item of a domain was chosen, counted at some times; an action of HALF_LIFE_DAYS ago counts half.

    What is asked of a time is answered from the last counted one that is no later.
    """

    def __init__(self, actions: pl.DataFrame, items: int) -> None:
        """`actions` has `item` (below `items`) and `timestamp`."""
        ordered = actions.sort("timestamp")
        times, chosen = ordered["timestamp"].dt.epoch("ms").to_numpy(), ordered["item"].to_numpy()
        self._edges = np.unique(times[:: max(1, len(times) // POPULAR_BINS)])
        self._counts: list[np.ndarray] = []
        self._ranked: list[np.ndarray] = []
        for edge in self._edges:
            before = times <= edge
            worth = np.exp2((times[before] - edge) / HALF_LIFE)
            counts = np.bincount(chosen[before], weights=worth, minlength=items)
            self._counts.append(counts.astype(np.float32))
            order = np.lexsort((np.arange(items), -counts))[:MOST_POPULAR]
            self._ranked.append(order[counts[order] > 0])

    def count(self, item: int, prompt: datetime | None, own: datetime | None) -> float:
        """Return the count of an item without the user's own action at `own`; 0 for the item -1."""
        at = self._before(prompt)
        return 0.0 if at < 0 or item < 0 else self._without_own(at, item, own)

    def best(self, prompt: datetime | None, most: int, taken: set[int], own: Mapping[int, datetime]) -> list[int]:
        """Return the `most` most popular items but those `taken`, the user's own actions left out of the counts."""
        at = self._before(prompt)
        if at < 0:
            return []
        near = self._ranked[at][: most + len(taken) + len(own)].tolist()  # own ones can only sink
        counts = {item: self._without_own(at, item, own.get(item)) for item in near if item not in taken}
        best = sorted((item for item, count in counts.items() if count > 0), key=lambda item: (-counts[item], item))
        return best[:most]

    def _before(self, prompt: datetime | None) -> int:
        return -1 if prompt is None else int(np.searchsorted(self._edges, _milliseconds(prompt), side="right")) - 1

    def _without_own(self, at: int, item: int, own: datetime | None) -> float:
        count = float(self._counts[at][item])
        age = None if own is None else _milliseconds(own) - float(self._edges[at])
        return count if age is None or age > 0 else max(0.0, round(count - 2.0 ** (age / HALF_LIFE), 6))


def _milliseconds(time: datetime) -> float:
    return time.timestamp() * 1000
