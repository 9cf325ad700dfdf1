"""Some users from their history to their recommendations, beside what they really chose."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from data_lake.schemas import TEST
from flows.compare import PHASE
from flows.report.asking import Answer, answers
from flows.report.prompts import prompts_of
from flows.report.tables import Tables
from flows.run import Run
from pipeline.llm.generator import Message

USERS = 12
ACTIONS = 30
"""The last actions of a user, and the items inserted among them, that are shown."""


@dataclass(frozen=True)
class Action:
    """An action; `is_inserted` says that a generator named the item."""

    item: str
    domain: str
    date: date
    split: str
    is_inserted: bool


@dataclass(frozen=True)
class Asked:
    """A question about a user, and what came of it. `prompt` is empty where it could not be made again."""

    about: str
    prompt: tuple[Message, ...]
    reply: str | None
    reason: str | None
    answers: list[Answer]


@dataclass(frozen=True)
class Profile:
    """What a generator wrote of a user's taste in a domain, or over all."""

    scope: str
    text: str | None
    reason: str | None
    evidence: int


@dataclass(frozen=True)
class Target:
    """What a user really chose next; `ranks` has by protocol its rank by the last phase, and among how many."""

    split: str
    item: str
    domain: str
    ranks: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Recommended:
    """An item recommended, from the best on."""

    rank: int
    item: str
    score: float


@dataclass(frozen=True)
class User:
    """One user. `earlier` counts the actions before those in `history`; `recommended` is by domain."""

    user: str
    earlier: int
    history: list[Action]
    asked: list[Asked]
    profiles: list[Profile]
    profile_prompts: list[Asked]
    targets: list[Target]
    recommended: dict[str, list[Recommended]]


def collect_users(run: Run) -> list[User]:
    """Return USERS users; none before the data was split."""
    tables = Tables(run)
    chosen = _choose(tables)
    if not chosen:
        return []
    prompts = prompts_of(run, chosen)
    histories, asked = _histories(tables, chosen), _asked(tables, chosen, prompts)
    profiles, profile_prompts = _profiles(tables, chosen, prompts)
    targets, recommended = _targets(tables, chosen), _recommended(tables, chosen)
    return [
        User(
            user, *histories[user], asked.get(user, []), profiles.get(user, []), profile_prompts.get(user, []),
            targets.get(user, []), recommended.get(user, {}),
        )
        for user in chosen
    ]  # fmt: skip


def _choose(tables: Tables) -> list[str]:
    """Return USERS users, the same each time: half of them, where there are as many, got an item; the others have a
    test target.
    """
    sequences, grounded = tables.scan("sequences"), tables.scan("grounded_items")
    if sequences is None:
        return []
    enriched = [] if grounded is None else _draw(sequences.join(grounded.filter("kept"), on="user_id", how="semi"))
    tested = _draw(sequences.filter(pl.col("splits").list.contains(TEST)))
    return sorted(list(dict.fromkeys([*enriched[: USERS // 2], *tested, *_draw(sequences)]))[:USERS])


def _draw(users: pl.LazyFrame) -> list[str]:
    drawn = (
        users.select("user_id", mark=pl.col("user_id").hash(seed=0))
        .bottom_k(USERS, by=["mark", "user_id"])
        .sort("mark", "user_id")
    )
    return drawn.collect()["user_id"].to_list()


def _histories(tables: Tables, users: Sequence[str]) -> dict[str, tuple[int, list[Action]]]:
    sequences = tables.scan("augmented_sequences")
    if sequences is None:
        sequences = tables.scan("sequences")
        assert sequences is not None  # the users come from there
        sequences = sequences.with_columns(synthetic=pl.col("item_ids").list.eval(pl.lit(False)))
    columns = ["item_ids", "domains", "timestamps", "splits", "synthetic"]
    theirs = sequences.filter(pl.col("user_id").is_in(users)).select("user_id", *columns)
    actions = theirs.explode(columns).rename({"item_ids": "item_id", "domains": "domain"})
    last = actions.with_columns(place=pl.int_range(pl.len(), 0, -1).over("user_id"), length=pl.len().over("user_id"))
    rows = _titled(tables, last.filter(pl.col("place") <= ACTIONS)).collect()
    found: dict[str, tuple[int, list[Action]]] = {user: (0, []) for user in users}
    for (user,), part in rows.group_by("user_id", maintain_order=True):
        shown = part.select(
            "item", "domain", date=pl.col("timestamps").dt.date(), split="splits", is_inserted="synthetic"
        )
        found[str(user)] = (part["length"][0] - len(part), [Action(**row) for row in shown.to_dicts()])
    return found


def _asked(tables: Tables, users: Sequence[str], prompts: dict[str, tuple[Message, ...]]) -> dict[str, list[Asked]]:
    replies, grounded = tables.scan("generated_items"), tables.scan("grounded_items")
    if replies is None:
        return {}
    found: dict[tuple[str, str, str], list[Answer]] = {}
    if grounded is not None:
        for answer in answers(grounded.filter(pl.col("user_id").is_in(users))):
            found.setdefault((answer.user, answer.from_domain, answer.to_domain), []).append(answer)
    asked: dict[str, list[Asked]] = {}
    for row in _rows(replies, users):
        pair = row["from_domain"], row["to_domain"]
        about = "Asked from {} about {}".format(*pair)
        asked.setdefault(row["user_id"], []).append(
            Asked(
                about, prompts.get(row["prompt_hash"], ()), row["reply"], row["reason"],
                found.get((row["user_id"], *pair), []),
            )
        )  # fmt: skip
    return asked


def _profiles(
    tables: Tables, users: Sequence[str], prompts: dict[str, tuple[Message, ...]]
) -> tuple[dict[str, list[Profile]], dict[str, list[Asked]]]:
    profiles: dict[str, list[Profile]] = {}
    asked: dict[str, list[Asked]] = {}
    for artifact in ("domain_profiles", "user_profiles"):
        replies = tables.scan(artifact)
        for row in [] if replies is None else _rows(replies, users):
            scope = row.get("domain", "all domains")
            profiles.setdefault(row["user_id"], []).append(Profile(scope, row["text"], row["reason"], row["evidence"]))
            prompt = prompts.get(row["prompt_hash"], ())
            asked.setdefault(row["user_id"], []).append(Asked(scope, prompt, row["reply"], row["reason"], []))
    return profiles, asked


def _targets(tables: Tables, users: Sequence[str]) -> dict[str, list[Target]]:
    ranks = tables.scan("ranks")
    if ranks is None:
        return {}
    theirs = ranks.filter(pl.col("user_id").is_in(users), pl.col("phase") == PHASE)
    ranked: dict[tuple[str, ...], dict[str, tuple[int, int]]] = {}
    for row in _titled(tables, theirs).collect().to_dicts():
        target = ranked.setdefault((row["user_id"], row["split"], row["item"], row["domain"]), {})
        target[row["protocol"]] = row["rank"], row["candidates"]
    found: dict[str, list[Target]] = {}
    for (user, split, item, domain), ranks_by_protocol in ranked.items():
        found.setdefault(user, []).append(Target(split, item, domain, ranks_by_protocol))
    return found


def _recommended(tables: Tables, users: Sequence[str]) -> dict[str, dict[str, list[Recommended]]]:
    recommendations = tables.scan("recommendations")
    if recommendations is None:
        return {}
    found: dict[str, dict[str, list[Recommended]]] = {}
    for row in _rows(recommendations, users):
        item = Recommended(row["rank"], row["title"] or row["item_id"], row["score"])
        found.setdefault(row["user_id"], {}).setdefault(row["domain"], []).append(item)
    return found


def _rows(table: pl.LazyFrame, users: Sequence[str]) -> list[dict[str, Any]]:
    return table.filter(pl.col("user_id").is_in(users)).collect().to_dicts()


def _titled(tables: Tables, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Add `item`: the title of each row's item, or its id where it has none."""
    items = tables.scan("items")
    if items is None:
        return rows.with_columns(item="item_id")
    titles = items.select("item_id", "title")
    return rows.join(titles, on="item_id", how="left", maintain_order="left").with_columns(
        item=pl.coalesce("title", "item_id")
    )
