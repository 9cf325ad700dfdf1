"""Answers without a language model: what users who share a user's items chose in the other domain.

It is the baseline that a language model must beat. What is popular fills up where too few users share an item.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from data_lake.progress import progress
from data_lake.schemas import SEQUENCES
from pipeline.frames import frame_of
from pipeline.histories import prompt_visible, training_prefix
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
PAIRS_AT_ONCE = 4_000_000
"""Items of near users that are looked at together, some 100 MB."""
NEVER = np.iinfo(np.int64).min
"""The time of a prompt that shows nothing."""


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

    def read(self, parts: Mapping[str, Iterable[pa.Table]]) -> None:
        """Answer from these histories."""
        items = pa.concat_tables(parts["items"])
        self._titles = titles_of(items, items["item_id"])
        self._neighbours = Neighbours(parts["sequences"], pa.concat_tables(parts["probes"]), self._prompt_share, items)

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


class Lists:
    """A list of values per key, the keys from 0 and the lists one behind the other."""

    def __init__(self, keys: np.ndarray, count: int) -> None:
        """`keys` (n,), rising, are those of the values; there are `count` of them."""
        self.starts = np.searchsorted(keys, np.arange(count + 1))

    def of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the values of some keys, list by list, and which of `keys` each is of."""
        return between(self.starts[keys], self.starts[keys + 1])


def between(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all whole numbers from each start up to its end, run by run, and which run each is of."""
    sizes = ends - starts
    runs = np.repeat(np.arange(len(sizes)), sizes)
    return np.arange(sizes.sum()) + (starts - (np.cumsum(sizes) - sizes))[runs], runs


class Neighbours:
    """The training actions of all users, and what those near a user chose; only titled items are answers.

    Users, items and domains are numbers here, and times milliseconds: some 40 bytes an action.
    """

    def __init__(self, parts: Iterable[pa.Table], probes: pa.Table, prompt_share: float, items: pa.Table) -> None:
        """`parts` are sequences, of which no more than one is in memory at a time.

        Probes are asked for like users; the actions of the users that they are made of count as their own. Raises
        UserError for a user who is called as a probe is.
        """
        catalogue = frame_of(items).select("item_id", "domain").sort("item_id").with_row_index("item")
        self._item_ids, self._domains = catalogue["item_id"], catalogue["domain"].to_numpy()
        self._numbers = dict(zip(self._item_ids.to_list(), range(len(catalogue)), strict=True))
        titled = titles_of(items, items["item_id"])
        self._is_titled = np.array([item_id in titled for item_id in self._item_ids], dtype=bool)
        numbers = catalogue.select("item_id", "item")
        self._rows: dict[str, int] = {}
        actions, visible = [], []

        def take(part: pa.Table) -> None:
            first = len(self._rows)
            ids = part["user_id"].to_pylist()
            if taken := self._rows.keys() & ids:
                raise UserError(
                    f"The user {min(taken)!r} is called as a probe is, a user one of whose domains is hidden. "
                    "Give that user another id, or set [enrich] probes = 0."
                )
            self._rows |= zip(ids, range(first, first + len(ids)), strict=True)
            visible.append(_numbered(prompt_visible(part, prompt_share), numbers, first))

        for part in parts:
            actions.append(_numbered(training_prefix(part), numbers, len(self._rows)))
            take(part)
        real = len(self._rows)
        take(probes.select(SEQUENCES.tables[""].names))
        owners = [self._rows[user] for user in probes["real_user_id"].to_pylist()]
        self._owner = np.array([*range(real), *owners], dtype=np.int64)

        shown = pl.concat(visible)
        self._prompt = np.full(len(self._rows), NEVER)
        self._prompt[shown["row"].to_numpy()] = shown["time"].to_numpy()  # of each row the last one stays
        shown = shown.select("row", "item").unique(maintain_order=True)
        self._shown, self._shown_items = Lists(shown["row"].to_numpy(), len(self._rows)), shown["item"].to_numpy()

        chosen = pl.concat(actions).unique(["row", "item"], keep="first", maintain_order=True)
        self._chosen, self._chosen_items = Lists(chosen["row"].to_numpy(), real), chosen["item"].to_numpy()
        self._chosen_times = chosen["time"].to_numpy()
        held = chosen.sort("item", "time", "row")
        self._held, self._held_by = Lists(held["item"].to_numpy(), len(catalogue)), held["row"].to_numpy()
        self._held_times = held["time"].to_numpy()
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
            row=pl.Series([self._rows[user] for user in pairs["user_id"]], dtype=pl.Int64),
            item=pl.Series([self._numbers.get(item, -1) for item in pairs["item_id"]], dtype=pl.Int64),
        )
        rated = rated.join(self._own(rated["row"].unique()), on=["row", "item"], how="left", maintain_order="left")
        parts = [rated.select("row", "item", shared=pl.lit(0.0)).clear()]
        for domain, theirs in rated.group_by("domain"):
            rows = theirs["row"].unique().sort().to_list()
            for first in range(0, len(rows), USERS_AT_ONCE):
                users = rows[first : first + USERS_AT_ONCE]
                wanted = theirs.filter(pl.col("row").is_in(users)).select("row", "item")
                parts.append(self._shared(users, str(domain[0]), wanted))
        rated = rated.join(pl.concat(parts), on=["row", "item"], how="left", maintain_order="left")
        prompts = self._prompt[rated["row"].to_numpy()].tolist()
        counts = [
            self._popularity(domain).count(item, prompt, own)
            for (domain, item, own), prompt in zip(
                rated.select("domain", "item", "own").iter_rows(), prompts, strict=True
            )
        ]
        return rated.select(
            *pairs.columns, pl.col("shared").fill_null(0.0), popularity=pl.Series(counts, dtype=pl.Float64)
        )

    def _own(self, rows: pl.Series) -> pl.DataFrame:
        """Return (row, item, own): what the owners of some rows chose themselves, and when."""
        places, of = self._chosen.of(self._owner[rows.to_numpy()])
        return pl.DataFrame(
            {"row": rows.to_numpy()[of], "item": self._chosen_items[places], "own": self._chosen_times[places]}
        )

    def _best(self, rows: list[int], domain: str, most: int, by_neighbours: bool) -> dict[int, list[int]]:
        """Return the `most` best items of a domain for some users, filled up with what is popular."""
        places, of = self._shown.of(np.array(rows))
        shown = pl.DataFrame({"row": np.array(rows)[of], "item": self._shown_items[places]})
        best: dict[int, list[int]] = {row: [] for row in rows}
        if by_neighbours:
            scored = self._shared(rows, domain).join(shown, on=["row", "item"], how="anti")
            ranked = scored.sort("row", "shared", "item", descending=[False, True, False])
            for row, item in ranked.group_by("row", maintain_order=True).head(most).select("row", "item").iter_rows():
                best[row].append(item)
        held = {row: set(items) for row, items in shown.group_by("row").agg("item").iter_rows()}
        few = [row for row in rows if len(best[row]) < most]
        own = self._own(pl.Series(few, dtype=pl.Int64))
        mine = {row: dict(zip(items, times, strict=True)) for row, items, times in
                own.group_by("row").agg("item", "own").iter_rows()}  # fmt: skip
        for row in few:
            taken = held.get(row, set()) | set(best[row])
            prompt, missing = int(self._prompt[row]), most - len(best[row])
            best[row] += self._popularity(domain).best(prompt, missing, taken, mine.get(row, {}))
        return best

    def _shared(self, rows: list[int], domain: str, wanted: pl.DataFrame | None = None) -> pl.DataFrame:
        """Return (row, item, shared): how much other holders of what prompts show chose each titled item of a domain.

        With `wanted` (row, item) only of these.
        """
        near, is_answer = self._near(rows), (self._domains == domain) & self._is_titled
        if wanted is not None:
            is_answer &= np.isin(np.arange(len(is_answer)), wanted["item"])
        found = [pl.DataFrame(schema={"row": pl.Int64, "item": pl.Int64, "shared": pl.Float64})]
        for block in _blocks(near, self._chosen.starts):
            places, of = self._chosen.of(block["other"].to_numpy())
            row, items = block["row"].to_numpy()[of], self._chosen_items[places]
            counts = is_answer[items] & (self._chosen_times[places] <= self._prompt[row])
            weight = block["weight"].to_numpy()[of]
            chosen = pl.DataFrame({"row": row[counts], "item": items[counts], "weight": weight[counts]})
            if wanted is not None:
                chosen = chosen.join(wanted, on=["row", "item"], how="semi")
            found.append(chosen.group_by("row", "item").agg(shared=pl.col("weight").sum().round(6)))
        return pl.concat(found)

    def _near(self, rows: list[int]) -> pl.DataFrame:
        """Return (row, other, weight), rows rising: who else held what prompts show of some users, and how near."""
        places, of = self._shown.of(np.array(rows, dtype=np.int64))
        row, items = np.array(rows, dtype=np.int64)[of], self._shown_items[places]
        starts, ends = self._held.starts[items], self._held.starts[items + 1]
        weights = 1 / np.sqrt(np.maximum(ends - starts, 1))
        before = [
            start + np.searchsorted(self._held_times[start:end], prompt, side="right")
            for start, end, prompt in zip(starts, ends, self._prompt[row], strict=True)
        ]
        ends = np.array(before, dtype=np.int64)
        last, of = between(np.maximum(starts, ends - HOLDERS - 1), ends)  # one more, who may be the user
        holders = pl.DataFrame({"pair": of, "row": row[of], "other": self._held_by[last], "weight": weights[of]})
        others = holders.filter(pl.Series(self._owner[row[of]] != self._held_by[last]))
        nearest = others.group_by("pair", maintain_order=True).tail(HOLDERS)
        return nearest.group_by("row", "other").agg(pl.col("weight").sum()).sort("row", "other")

    def _popularity(self, domain: str) -> "Popularity":
        if domain not in self._popular:
            items = np.flatnonzero((self._domains == domain) & self._is_titled)
            is_here = np.isin(self._chosen_items, items)
            self._popular[domain] = Popularity(self._chosen_items[is_here], self._chosen_times[is_here], items)
        return self._popular[domain]


def _numbered(actions: pl.DataFrame, numbers: pl.DataFrame, first: int) -> pl.DataFrame:
    """Return (row, item, time) of actions whose rows count from `first`."""
    known = actions.join(numbers, on="item_id", maintain_order="left")
    return known.select(pl.col("row") + first, pl.col("item").cast(pl.Int64), time=pl.col("timestamp").dt.epoch("ms"))


def _blocks(near: pl.DataFrame, starts: np.ndarray) -> Iterator[pl.DataFrame]:
    """Yield runs of whole rows of `near`, whose others chose at most about PAIRS_AT_ONCE items together."""
    others = near["other"].to_numpy()
    so_far = np.cumsum(starts[others + 1] - starts[others])
    row_starts = np.flatnonzero(np.diff(near["row"].to_numpy(), prepend=-1))
    block = (so_far[row_starts] // PAIRS_AT_ONCE) if len(row_starts) else row_starts
    begins = [*row_starts[np.flatnonzero(np.diff(block, prepend=-1))], len(near)]
    for start, end in pairwise(begins):
        yield near[int(start) : int(end)]


class Popularity:
    """How often each item of a domain was chosen, counted at some times; an action of HALF_LIFE_DAYS ago counts half.

    What is asked of a time is answered from the last counted one that is no later. Times are milliseconds.
    """

    def __init__(self, chosen: np.ndarray, times: np.ndarray, items: np.ndarray) -> None:
        """`chosen` (n,), at `times` (n,), are among `items`, which rise."""
        self._items = items
        order = np.argsort(times, kind="stable")
        times, places = times[order], np.searchsorted(items, chosen[order])
        self._edges = np.unique(times[:: max(1, len(times) // POPULAR_BINS)])
        self._counts: list[np.ndarray] = []
        self._ranked: list[np.ndarray] = []
        for edge in self._edges:
            before = times <= edge
            worth = np.exp2((times[before] - edge) / HALF_LIFE)
            counts = np.bincount(places[before], weights=worth, minlength=len(items))
            self._counts.append(counts.astype(np.float32))
            best = np.lexsort((np.arange(len(items)), -counts))[:MOST_POPULAR]
            self._ranked.append(items[best[counts[best] > 0]])

    def count(self, item: int, prompt: int, own: int | None) -> float:
        """Return the count of an item without the user's own action at `own`; 0 for one that is not among the items."""
        at = self._before(prompt)
        return 0.0 if at < 0 else self._without_own(at, item, own)

    def best(self, prompt: int, most: int, taken: set[int], own: Mapping[int, int]) -> list[int]:
        """Return the `most` most popular items but those `taken`, the user's own actions left out of the counts."""
        at = self._before(prompt)
        if at < 0:
            return []
        near = self._ranked[at][: most + len(taken) + len(own)].tolist()  # own ones can only sink
        counts = {item: self._without_own(at, item, own.get(item)) for item in near if item not in taken}
        best = sorted((item for item, count in counts.items() if count > 0), key=lambda item: (-counts[item], item))
        return best[:most]

    def _before(self, prompt: int) -> int:
        return int(np.searchsorted(self._edges, prompt, side="right")) - 1

    def _without_own(self, at: int, item: int, own: int | None) -> float:
        place = int(np.searchsorted(self._items, item))
        if place == len(self._items) or self._items[place] != item:
            return 0.0
        count = float(self._counts[at][place])
        age = None if own is None else own - int(self._edges[at])
        return count if age is None or age > 0 else max(0.0, round(count - 2.0 ** (age / HALF_LIFE), 6))
