"""Simulate the sample world: users with tastes, catalogues that serve them, and what the users did.

Every item belongs to one taste, one of the recipes of that taste, and one style; its title says so in words. A user
has one to three tastes and a preferred style, in every domain the same. Within a taste a user moves through the
recipes in order, across domains: who bought the pizza dough (food) next looks for the pesto mortar (kitchen). So
the order of a sequence tells more than its set of items, and what a user did in one domain tells what fits in another.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.csv import write_csv
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from data_lake.config import Config
from pipeline.sample_world.words import PRODUCTS_PER_TASTE, STYLES, TASTES, brands, extras, products

RECIPES = PRODUCTS_PER_TASTE
WORDS_PER_STYLE = 3

SKEW = 1.2  # Zipf exponent of the items within a taste, recipe and style, and of the bestsellers among noise
TASTE_SKEW = 0.6  # the same, of the tastes among users
STYLE_SHARES = np.array([0.4, 0.3, 0.2, 0.1])  # of STYLES, among users and among actions without loyalty
TASTES_PER_USER = np.array([0.3, 0.4, 0.3])  # one, two or three
STAY = 0.4  # an action keeps to the taste of the one before
NEXT, SAME = 0.6, 0.15  # a taste's next action: next recipe, the same, else any
LOYALTY = 0.65  # an action is of the user's own style
REPEAT = 0.1  # an item that the user already holds is taken again; else another is looked for
SHORTEST = 6
START = 1_672_531_200  # 2023-01-01 in seconds
SPAN = 2 * 365 * 86_400
USERS_PER_BLOCK = 100_000

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


class SimulateConfig(Config):
    """The knobs of the sample world."""

    users: PositiveInt = 2000
    items: int = Field(1200, ge=len(TASTES))
    """Items per domain."""
    domains: tuple[str, ...] = Field(("food", "kitchen"), min_length=2)
    """`food` and `kitchen` have words of their own; any other name gets plain ones."""
    length: float = Field(20, ge=SHORTEST)
    """Mean number of actions of a user; none has fewer than 6 or more than four times the mean."""
    imbalanced: float = Field(0.95, ge=0, le=1)
    """Share of users with a main domain; the others act in all domains alike."""
    imbalance: float = Field(0.96, ge=0.5, le=1)
    """Share of an imbalanced user's actions that fall in the main domain."""
    first: float = Field(0.95, ge=0, le=1)
    """Share of imbalanced users whose main domain is the first; the main domains of the others are spread evenly."""
    scarce: float = Field(0.5, ge=0, le=1)
    """Share of users, all imbalanced, whose last two actions fall in a domain where they have at most one other."""
    noise: float = Field(0.1, ge=0, le=1)
    """Share of actions that have nothing to do with the user."""
    missing_titles: float = Field(0.01, ge=0, le=1)
    escaped_titles: float = Field(0.2, ge=0, le=1)
    """Share of the titles with a & or an apostrophe that are written as HTML (&amp;)."""
    seed: NonNegativeInt = 0

    @field_validator("domains")
    @classmethod
    def _check_domains(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(domains)) < len(domains) or "all" in domains or "" in domains:
            raise ValueError("domains need different names, none of them empty or 'all'")
        return domains

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.scarce > self.imbalanced:
            raise ValueError(
                f"scarce ({self.scarce}) cannot exceed imbalanced ({self.imbalanced}): only imbalanced users"
            )
        return self


@dataclass(frozen=True)
class World:
    """The two input files as tables, and the truth behind them, which no stage may read."""

    interactions: pa.Table
    """user_id, item_id, domain, timestamp (Unix seconds), rating; a user's rows together and in time order."""
    items: pa.Table
    """item_id, domain, title."""
    user_truth: pa.Table
    """user_id, tastes, weights, style, main_domain, scarce_domain (both null if balanced), scarce_targets."""
    item_truth: pa.Table
    """item_id, domain, taste, recipe, style; row by row beside `items`."""


@dataclass(frozen=True)
class _Catalogue:
    """The items of one domain, the same in each but for their words: sorted by cell, the popular first.

    A cell is (taste, recipe, style) as one number. Small catalogues lack some cells: `stand_in` names the one to use.
    """

    taste: Ints
    recipe: Ints
    style: Ints
    number: Ints
    """Rank within the cell."""
    first: Ints
    count: Ints
    stand_in: Ints


@dataclass(frozen=True)
class _Users:
    """What is drawn of some users before their first action; a row of each array is a user."""

    length: Ints
    tastes: Ints
    """(users, 3); those beyond a user's number of tastes have weight zero."""
    early: Floats
    """(users, 3): weights of the tastes at the first action."""
    late: Floats
    """The same at the last action."""
    style: Ints
    main: Ints
    other: Ints
    imbalanced: Bools
    scarce: Bools
    visit: Ints
    """Of scarce users: the one training position in the other domain, or -1."""

    def take(self, rows: Ints) -> "_Users":
        """Return these users in this order."""
        return _Users(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def simulate(cfg: SimulateConfig) -> World:
    """Return the world of these settings: the same settings always give the same world."""
    rng = np.random.default_rng([cfg.seed, 0])
    catalogue = _catalogue(cfg.items)
    item_ids, items, item_truth = _item_tables(cfg, catalogue, rng)
    bestsellers = rng.permuted(np.tile(np.arange(cfg.items), (len(cfg.domains), 1)), axis=1)
    order = rng.permutation(cfg.users)
    scarce = order < round(cfg.scarce * cfg.users)
    imbalanced = order < round(cfg.imbalanced * cfg.users)

    digits = len(str(cfg.users))
    actions, truths = [], []
    for block, begin in enumerate(range(0, cfg.users, USERS_PER_BLOCK)):
        rng = np.random.default_rng([cfg.seed, 1, block])
        span = slice(begin, begin + USERS_PER_BLOCK)
        user_ids = _ids("u", np.arange(cfg.users)[span] + 1, digits)
        users = _draw_users(cfg, imbalanced[span], scarce[span], rng)
        held = _walk(cfg, catalogue, bestsellers, users, rng)
        actions.append(_actions_table(cfg, users, held, user_ids, item_ids, catalogue, rng))
        truths.append(_user_truth(cfg, users, user_ids))
    return World(pa.concat_tables(actions), items, pa.concat_tables(truths), item_truth)


def write(
    world: World, folder: Path, file_format: Literal["csv", "parquet"] = "csv", truth: bool = False
) -> list[Path]:
    """Write the two input files, and with `truth` the two truth tables (Parquet), into a folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"interactions.{file_format}", folder / f"items.{file_format}"]
    for table, path in zip((world.interactions, world.items), paths, strict=True):
        if file_format == "csv":
            write_csv(table, path)
        else:
            pq.write_table(table, path, compression="zstd")
    if truth:
        paths += [folder / "user_truth.parquet", folder / "item_truth.parquet"]
        pq.write_table(world.user_truth, paths[2])
        pq.write_table(world.item_truth, paths[3])
    return paths


def titles(domain: str, taste: Ints, recipe: Ints, style: Ints, number: Ints) -> pa.Array:
    """Return titles of items: taste, recipe and style as indices, `number` telling apart the items that share them."""
    makers, last = brands(domain), extras(domain)
    different = len(makers) * WORDS_PER_STYLE * len(last)
    scrambled = (number * 137 + (taste * RECIPES + recipe) * 61 + style * 17) % different  # 137 is prime to all of them
    brand, rest = scrambled % len(makers), scrambled // len(makers)
    nouns = [noun for name in TASTES for noun in products(domain, name)]
    adjectives = [word for words in STYLES.values() for word in words]
    series = number // different
    words = [
        pa.array(makers).take(pa.array(brand)),
        pa.array(adjectives).take(pa.array(style * WORDS_PER_STYLE + rest % WORDS_PER_STYLE)),
        pa.array(nouns).take(pa.array(taste * RECIPES + recipe)),
    ]
    title = pc.binary_join_element_wise(*words, " ")
    title = pc.binary_join_element_wise(title, pa.array(last).take(pa.array(rest // WORDS_PER_STYLE)), ", ")
    numbered = pc.binary_join_element_wise(title, pc.cast(pa.array(series + 1), pa.string()), " No. ")
    return pc.if_else(pa.array(series > 0), numbered, title)


def _catalogue(items: int) -> _Catalogue:
    tastes, styles = len(TASTES), len(STYLES)
    k = np.arange(items)
    taste, recipe, style = k % tastes, k // tastes % RECIPES, k // (tastes * RECIPES) % styles
    cell = (taste * RECIPES + recipe) * styles + style
    order = np.argsort(cell, kind="stable")
    count = np.bincount(cell, minlength=tastes * RECIPES * styles)
    first = np.cumsum(count) - count
    filled = (count > 0).reshape(tastes, RECIPES, styles)  # dealt out in turn: filled ones come first on each axis
    recipes_there = filled[:, :, 0].sum(axis=1)
    wanted = np.arange(tastes * RECIPES * styles)
    own_taste = wanted // (RECIPES * styles)
    own_recipe = wanted // styles % RECIPES % recipes_there[own_taste]
    own_style = wanted % styles % filled.sum(axis=2)[own_taste, own_recipe]
    stand_in = (own_taste * RECIPES + own_recipe) * styles + own_style
    number = k - first[cell[order]]
    return _Catalogue(taste[order], recipe[order], style[order], number, first, count, stand_in)


def _item_tables(
    cfg: SimulateConfig, catalogue: _Catalogue, rng: np.random.Generator
) -> tuple[pa.Array, pa.Table, pa.Table]:
    """Return the item ids by item number (domain by domain, in catalogue order), and the two tables in id order."""
    ids, tables, truths = [], [], []
    for domain in cfg.domains:
        shuffled = rng.permutation(cfg.items)  # ids and the order of the file say nothing about what an item is
        order = np.argsort(shuffled)
        own = _ids(f"{domain}-", shuffled + 1, len(str(cfg.items)))
        title = titles(domain, catalogue.taste, catalogue.recipe, catalogue.style, catalogue.number)
        escaped = pc.replace_substring(pc.replace_substring(title, "&", "&amp;"), "'", "&#39;")
        title = pc.if_else(pa.array(rng.random(cfg.items) < cfg.escaped_titles), escaped, title)
        title = pc.if_else(pa.array(rng.random(cfg.items) < cfg.missing_titles), pa.scalar(None, pa.string()), title)
        names = pa.repeat(domain, cfg.items)
        ids.append(own)
        tables.append(pa.table({"item_id": own, "domain": names, "title": title}).take(pa.array(order)))
        truth = {
            "item_id": own,
            "domain": names,
            "taste": pa.array(TASTES).take(pa.array(catalogue.taste)),
            "recipe": pa.array(catalogue.recipe.astype(np.int8)),
            "style": pa.array(tuple(STYLES)).take(pa.array(catalogue.style)),
        }
        truths.append(pa.table(truth).take(pa.array(order)))
    return pa.concat_arrays(ids), pa.concat_tables(tables), pa.concat_tables(truths)


def _draw_users(cfg: SimulateConfig, imbalanced: Bools, scarce: Bools, rng: np.random.Generator) -> _Users:
    n, domains = len(scarce), len(cfg.domains)
    length = SHORTEST + rng.gamma(2, (cfg.length - SHORTEST) / 2, n).round().astype(np.int64)
    length = np.minimum(length, int(4 * cfg.length))
    attraction = -TASTE_SKEW * np.log(np.arange(1, len(TASTES) + 1)) + rng.gumbel(size=(n, len(TASTES)))
    tastes = np.argsort(-attraction, axis=1)[:, :3]
    has = np.arange(3) < (1 + rng.choice(3, n, p=TASTES_PER_USER))[:, None]
    early, other_mood = (weights / weights.sum(axis=1, keepdims=True) for weights in rng.gamma(1, size=(2, n, 3)) * has)
    main = np.where(rng.random(n) < cfg.first, 0, rng.integers(1, domains, size=n))
    visit = np.where(rng.random(n) < 0.5, rng.integers(0, length - 2), -1)
    return _Users(
        length=length,
        tastes=tastes,
        early=early,
        late=(early + other_mood) / 2,
        style=rng.choice(len(STYLES), n, p=STYLE_SHARES),
        main=main,
        other=(main + rng.integers(1, domains, size=n)) % domains,
        imbalanced=imbalanced,
        scarce=scarce,
        visit=visit,
    )


def _walk(
    cfg: SimulateConfig, catalogue: _Catalogue, bestsellers: Ints, users: _Users, rng: np.random.Generator
) -> Ints:
    """Return the item numbers that each user acts on, (users, longest), -1 after the end.

    All users take their t-th action at once; those with the longest histories come first, so the ones still
    acting are always a prefix.
    """
    order = np.argsort(-users.length, kind="stable")
    users = users.take(order)
    length, tastes, main, other, scarce = users.length, users.tastes, users.main, users.other, users.scarce
    early, late = np.cumsum(users.early, axis=1), np.cumsum(users.late, axis=1)
    domains, styles = len(cfg.domains), len(STYLES)
    leave = np.where(users.imbalanced, 1 - cfg.imbalance, 1 - 1 / domains)
    held = np.full((len(order), length[0]), -1, dtype=np.int32)
    slot = np.full(len(order), -1)
    recipe = rng.integers(RECIPES, size=(len(order), 3))

    def choose(rows: Ints, domain: Ints, noisy: Bools, loyal: Bools) -> Ints:
        """Draw an item for each of these users from where they stand."""
        n = len(rows)
        any_style = np.minimum(np.searchsorted(np.cumsum(STYLE_SHARES), rng.random(n)), styles - 1)
        own_style = np.where(loyal, users.style[rows], any_style)
        at = slot[rows]
        cell = catalogue.stand_in[(tastes[rows, at] * RECIPES + recipe[rows, at]) * styles + own_style]
        in_cell = catalogue.first[cell] + _zipf(rng.random(n), catalogue.count[cell])
        anything = bestsellers[domain, _zipf(rng.random(n), np.full(n, cfg.items))]
        return domain * cfg.items + np.where(noisy, anything, in_cell)

    for t in range(length[0]):
        n = int(np.searchsorted(-length, -t))  # length > t
        rows = np.arange(n)
        age = (t / (length[:n] - 1))[:, None]
        weights = (1 - age) * early[:n] + age * late[:n]
        drawn = np.minimum((rng.random((n, 1)) >= weights).sum(axis=1), 2)
        slot[:n] = np.where((slot[:n] >= 0) & (rng.random(n) < STAY), slot[:n], drawn)

        noisy = rng.random(n) < cfg.noise
        move = rng.random(n)
        here = recipe[rows, slot[:n]]
        moved = np.where(move < NEXT, (here + 1) % RECIPES, rng.integers(RECIPES, size=n))
        recipe[rows, slot[:n]] = np.where(noisy | ((move >= NEXT) & (move < NEXT + SAME)), here, moved)

        away = (main[:n] + rng.integers(1, domains, size=n)) % domains
        domain = np.where(rng.random(n) < leave[:n], away, main[:n])
        domain = np.where(scarce[:n] & (domain == other[:n]), main[:n], domain)
        called = scarce[:n] & ((t >= length[:n] - 2) | (t == users.visit[:n]))
        domain = np.where(called, other[:n], domain)

        item = choose(rows, domain, noisy, rng.random(n) < LOYALTY)
        wants_new = rng.random(n) >= REPEAT
        for attempt in range(3):
            again = np.flatnonzero(wants_new & (held[:n, :t] == item[:, None]).any(axis=1))
            if attempt:  # the recipe is used up: the next one
                recipe[again, slot[again]] = (recipe[again, slot[again]] + ~noisy[again]) % RECIPES
            item[again] = choose(again, domain[again], noisy[again], np.zeros(len(again), dtype=bool))
        held[:n, t] = item
    return held[np.argsort(order)]


def _zipf(uniform: Floats, count: Ints) -> Ints:
    """Turn uniform draws into ranks 0..count-1, rank r with weight about 1 / (r + 1) ** SKEW."""
    top = (count + 1.0) ** (1 - SKEW)
    rank = ((top - 1) * uniform + 1) ** (1 / (1 - SKEW)) - 1
    return np.minimum(rank.astype(np.int64), count - 1)


def _actions_table(
    cfg: SimulateConfig,
    users: _Users,
    held: Ints,
    user_ids: pa.Array,
    item_ids: pa.Array,
    catalogue: _Catalogue,
    rng: np.random.Generator,
) -> pa.Table:
    length = users.length
    user = np.repeat(np.arange(len(length)), length)
    position = np.arange(len(user)) - np.repeat(np.cumsum(length) - length, length)
    item = held[held >= 0]
    of_taste = catalogue.taste[item % cfg.items][:, None] == users.tastes[user]
    fits = (of_taste & (users.early[user] > 0)).any(axis=1)
    rating = np.where(fits, 5 - np.searchsorted([0.6, 0.9], rng.random(len(item))), rng.integers(1, 6, size=len(item)))
    return pa.table(
        {
            "user_id": user_ids.take(pa.array(user)),
            "item_id": item_ids.take(pa.array(item)),
            "domain": pa.array(cfg.domains).take(pa.array(item // cfg.items)),
            "timestamp": pa.array(_times(length, user, position, rng)),
            "rating": pa.array(rating.astype(np.int8)),
        }
    )


def _times(length: Ints, user: Ints, position: Ints, rng: np.random.Generator) -> Ints:
    """Return strictly rising Unix seconds per user: exponential gaps within the user's own part of the two years."""
    passed = np.cumsum(rng.exponential(size=len(user)))
    last = np.cumsum(length) - 1
    before = np.concatenate([[0.0], passed[last[:-1]]])
    share = (passed - before[user]) / (passed[last] - before)[user]  # 1 at the last action
    begin = rng.random(len(length)) * SPAN / 2
    stay = rng.uniform(0.5, 1, len(length)) * (SPAN - begin - length)
    return START + (begin[user] + share * stay[user]).astype(np.int64) + position


def _user_truth(cfg: SimulateConfig, users: _Users, user_ids: pa.Array) -> pa.Table:
    weights = (users.early + users.late) / 2
    has = weights > 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(has.sum(axis=1))]).astype(np.int32))
    domains, balanced = pa.array(cfg.domains), pa.array(~users.imbalanced)
    nobody = pa.scalar(None, pa.string())
    return pa.table(
        {
            "user_id": user_ids,
            "tastes": pa.ListArray.from_arrays(offsets, pa.array(TASTES).take(pa.array(users.tastes[has]))),
            "weights": pa.ListArray.from_arrays(offsets, pa.array(weights[has])),
            "style": pa.array(tuple(STYLES)).take(pa.array(users.style)),
            "main_domain": pc.if_else(balanced, nobody, domains.take(pa.array(users.main))),
            "scarce_domain": pc.if_else(balanced, nobody, domains.take(pa.array(users.other))),
            "scarce_targets": pa.array(users.scarce),
        }
    )


def _ids(prefix: str, numbers: Ints, digits: int) -> pa.Array:
    padded = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), digits, "0")
    return pc.binary_join_element_wise(prefix, padded, "")
