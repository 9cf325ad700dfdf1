"""What edt-tiny learns from: prompts as the stages render them, with answers by the law of the sample world.

A lesson is about a shopper drawn here, from the words, the titles and the shares of the simulator. No world is
simulated, so no user of any sample is ever seen. The prompts come out of the stages themselves: the teacher is
a `Generator` that writes down each request together with its answer.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np
import pyarrow as pa

from data_lake.keyed_cache import KeyedCache
from data_lake.schemas import TRAIN
from pipeline.augment.generate_items import generate_items
from pipeline.config import DomainConfig, EnrichConfig, ProfileConfig
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
from pipeline.profile.profile_domains import profile_domains, profile_rows
from pipeline.profile.profile_users import profile_users
from pipeline.sample_world.edt_tiny import DOMAINS
from pipeline.sample_world.simulate import LOYALTY, NEXT, RECIPES, SAME, STYLE_SHARES, TASTES_PER_USER, titles
from pipeline.sample_world.words import STYLES, TASTES, brands, products

NOISE = 0.1  # as in the default world
DESCRIBED = {
    "food": ("groceries, snacks and drinks", "food and drink"),
    "kitchen": ("cookware, tools and small appliances", "kitchenware"),
}
"""How settings may describe the domains."""
SHOWN = np.array([0.12, 0.12, 0.13, 0.13, 0.5])  # of 1, 2, ... titles in a prompt: most users have all representatives
Rng = np.random.Generator


@dataclass(frozen=True)
class Kind:
    """An item as the law sees it: taste and style as indices, and which item of these it is by popularity."""

    domain: str
    taste: int
    recipe: int
    style: int
    number: int

    @property
    def title(self) -> str:
        """The title as a catalogue has it."""
        kind = (np.array([value]) for value in (self.taste, self.recipe, self.style, self.number))
        return str(titles(self.domain, *kind)[0])

    @property
    def without_brand(self) -> str:
        """The title without the maker, which says nothing about a taste."""
        title = self.title
        return next(title[len(brand) + 1 :] for brand in brands(self.domain) if title.startswith(f"{brand} "))

    @property
    def product(self) -> str:
        """The kind of product, in lower case."""
        return products(self.domain, TASTES[self.taste])[self.recipe].lower()


@dataclass
class Shopper:
    """One to three tastes with their weights, and a style; `recipe` is where the shopper stands within each taste."""

    tastes: list[int]
    weights: np.ndarray
    style: int
    recipe: dict[int, int]

    @classmethod
    def draw(cls, rng: Rng) -> "Shopper":
        """Draw one; every taste is as likely as any other."""
        tastes = rng.choice(len(TASTES), size=1 + rng.choice(3, p=TASTES_PER_USER), replace=False).tolist()
        recipe = {taste: int(rng.integers(RECIPES)) for taste in tastes}
        style = int(rng.choice(len(STYLES), p=STYLE_SHARES))
        return cls(tastes, rng.dirichlet(np.ones(len(tastes))), style, recipe)

    def choose(self, domain: str, count: int, rng: Rng, noise: float = NOISE) -> list[Kind]:
        """Return `count` items that the shopper chooses in a domain, oldest first."""
        chosen = []
        for _ in range(count):
            if rng.random() < noise:
                taste, recipe = int(rng.integers(len(TASTES))), int(rng.integers(RECIPES))
            else:
                taste = int(rng.choice(self.tastes, p=self.weights))
                move = rng.random()
                if move < NEXT:
                    self.recipe[taste] = (self.recipe[taste] + 1) % RECIPES
                elif move >= NEXT + SAME:
                    self.recipe[taste] = int(rng.integers(RECIPES))
                recipe = self.recipe[taste]
            loyal = rng.random() < LOYALTY
            style = self.style if loyal else int(rng.choice(len(STYLES), p=STYLE_SHARES))
            chosen.append(Kind(domain, taste, recipe, style, int(rng.integers(3 if rng.random() < 0.7 else 60))))
        return chosen

    def shows(self, items: Sequence[Kind]) -> list[tuple[int, int]]:
        """Return (taste, items) of the shopper's own tastes among `items`, most first; of all tastes where none is."""
        own = [item for item in items if item.taste in self.tastes] or items
        return Counter(item.taste for item in own).most_common()


@dataclass
class Profile:
    """What a profile says, before it is put into words."""

    tastes: list[int]
    style: int
    products: dict[str, list[str]]
    """Examples by domain."""
    inferred: bool = False

    @property
    def text(self) -> str:
        """One to three sentences."""
        likes = _and([TASTES[taste] for taste in self.tastes])
        opening = "Inferred: the customer" if self.inferred else "The customer"
        kind = f"{opening}'s interests: {likes}, mostly of the {tuple(STYLES)[self.style]} kind"
        if len(self.products) == 1:
            [examples] = self.products.values()
            return f"{kind}, such as {_and(examples)}."
        return " ".join([f"{kind}.", *(f"In {domain}: {_and(some)}." for domain, some in self.products.items())])


@dataclass(frozen=True)
class Lesson:
    """A chat, and the reply that is right."""

    request: Request
    reply: str


@dataclass
class Teacher:
    """A `Generator` that knows every shopper, and notes each request with the right answer.

    With `strict` the first request of each shopper fails, so that the retry is noted.
    """

    shoppers: Mapping[str, tuple[Shopper, list[Kind]]]
    rng: Rng
    strict: bool = False
    profiles: dict[str, Profile] = field(default_factory=dict)
    lessons: list[Lesson] = field(default_factory=list)
    identity: Mapping[str, Any] = field(default_factory=lambda: {"model": "teacher"})

    asks_model = True
    reads: tuple[str, ...] = ()
    last_words = ""
    tokens: Tokens = BY_CHARACTERS
    fingerprint: Mapping[str, Any] = field(default_factory=dict)

    def read(self, parts: Mapping[str, Iterable[pa.Table]]) -> None:
        """Need nothing."""

    def remember_in(self, cache: KeyedCache) -> None:
        """Do nothing: nothing is sent."""

    def counts(self) -> dict[str, Any]:
        """Count nothing."""
        return {}

    def close(self, patience: float = 15.0) -> None:
        """Hold nothing."""

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return the right answers, in order."""
        if self.strict:
            self.strict = False
            return [Reply(None, error="cut")] * len(requests)
        answers = [self._answer(request) for request in requests]
        for request, answer in zip(requests, answers, strict=True):
            self.lessons.append(Lesson(request, answer))
        return [Reply(answer) for answer in answers]

    def _answer(self, request: Request) -> str:
        match request.question:
            case UserProfileQuestion(summaries=summaries):
                return _json({"profile": self._merged(summaries)})
            case ItemsQuestion(user_id=user_id, to_domain=domain, answers=answers):
                return _json({"items": suggestions(*self.shoppers[user_id], domain, answers, self.rng)})
            case DomainProfileQuestion(user_id=user_id, domain=domain, inferred=inferred):
                return _json({"profile": self._described(domain, *self.shoppers[user_id], inferred)})
        raise ValueError(f"edt-tiny gets no lessons in {request.question.task}")

    def _described(self, domain: str, shopper: Shopper, shown: Sequence[Kind], inferred: bool) -> str:
        tastes = [taste for taste, _ in shopper.shows(shown)][:3]
        latest = {item.taste: item.product for item in shown}
        profile = Profile(tastes, shopper.style, {domain: [latest[taste] for taste in tastes]}, inferred)
        self.profiles[profile.text] = profile
        return profile.text

    def _merged(self, parts: Sequence[DomainSummary]) -> str:
        parts = sorted(parts, key=lambda part: -part.evidence)
        read = [self.profiles[part.text] for part in parts]
        if len(read) == 1:
            return read[0].text
        tastes = list(dict.fromkeys(taste for profile in read for taste in profile.tastes))
        examples = {part.domain: next(iter(p.products.values()))[:2] for part, p in zip(parts, read, strict=True)}
        return Profile(tastes[:4], read[0].style, examples).text


def suggestions(shopper: Shopper, shown: Sequence[Kind], domain: str, answers: int, rng: Rng) -> list[str]:
    """Return different titles of another domain that fit: each shown taste of the shopper by its share.

    Within a taste the recipe that follows the latest shown comes first; a taste that needs more titles than it has
    recipes goes on with another style.
    """
    counts = shopper.shows(shown)
    total = sum(count for _, count in counts)
    exact = np.array([answers * count / total for _, count in counts])
    quota = np.floor(exact).astype(int)
    quota[np.argsort(-(exact - quota), kind="stable")[: answers - quota.sum()]] += 1
    styles = [shopper.style, *(style for style in range(len(STYLES)) if style != shopper.style)]
    texts = []
    for (taste, _), wanted in zip(counts, quota, strict=True):
        latest = [item.recipe for item in shown if item.taste == taste][-1]
        recipes = [(latest + 1 + step) % RECIPES for step in range(RECIPES)]
        for turn, recipe in enumerate(islice(cycle(recipes), int(wanted))):
            number = int(rng.choice(3, p=(0.6, 0.25, 0.15)))
            style = styles[turn // RECIPES % len(styles)]
            texts.append(Kind(domain, taste, recipe, style, number).without_brand)
    return list(dict.fromkeys(texts))


def lessons(count: int, rng: Rng) -> list[Lesson]:
    """Return `count` lessons of one task; their fixed instructions, the first message, are the same."""
    task = rng.choice(["generate_items", "profile_domain", "profile_user"], p=[0.6, 0.25, 0.15])
    source, target = rng.permutation(DOMAINS).tolist()
    about = {
        domain: DomainConfig(describe=str(rng.choice(DESCRIBED[domain])))
        for domain in (source, target)
        if rng.random() < 0.1
    }
    strict = bool(rng.random() < 0.05)
    if task == "generate_items":
        return _item_lessons(count, source, target, about, strict, rng)
    if task == "profile_domain":
        return _profile_lessons(count, [source], about, strict, rng)[0]
    return _profile_lessons(count, [source, target], about, strict, rng)[1]


def _item_lessons(
    count: int, source: str, target: str, about: Mapping[str, DomainConfig], strict: bool, rng: Rng
) -> list[Lesson]:
    answers = EnrichConfig().answers if rng.random() < 0.8 else int(rng.integers(3, 13))
    known = {}
    for number in range(count):
        shopper = Shopper.draw(rng)
        shown = 1 + int(rng.choice(len(SHOWN), p=SHOWN)) if rng.random() < 0.95 else int(rng.integers(6, 11))
        known[f"u{number}"] = shopper, shopper.choose(source, shown, rng)
    items, ids = _items([shown for _, shown in known.values()])
    rows = pa.table(
        {"user_id": list(known), "from_domain": [source] * count, "to_domain": [target] * count, "item_ids": ids}
    )
    teacher = Teacher(known, rng, strict)
    generate_items(rows, items, teacher, EnrichConfig(answers=answers), about)
    return teacher.lessons


def _profile_lessons(
    count: int, domains: list[str], about: Mapping[str, DomainConfig], strict: bool, rng: Rng
) -> tuple[list[Lesson], list[Lesson]]:
    """Return lessons on profiles of one domain, and, where there are two domains, on their merge."""
    cfg = ProfileConfig()
    known, histories, synthetic, owners = {}, [], [], []
    for number in range(count):
        shopper = Shopper.draw(rng)
        for domain in domains:
            real = 0 if len(domains) == 1 and rng.random() < 0.15 else 1 + int(rng.integers(min(cfg.last_items, 12)))
            guessed = int(rng.integers(0 if real else 1, 8)) if rng.random() < 0.5 or not real else 0
            chosen = shopper.choose(domain, real, rng)
            histories.append(shopper.choose(domain, guessed, rng, noise=0.03) + chosen)
            synthetic.append([True] * guessed + [False] * real)
            user = f"u{number}-{domain}"
            owners.append((user, number, domain))
            known[user] = shopper, chosen or histories[-1]
    items, ids = _items(histories)
    group = rng.permutation(len(TASTES)) % cfg.clusters  # similar items stand together
    every = [item for history in histories for item in history]
    clusters = pa.table({"item_id": items["item_id"], "cluster": pa.array(group[[item.taste for item in every]])})
    clusters = clusters.set_column(1, "cluster", clusters["cluster"].cast(pa.int32()))
    sizes = [len(history) for history in histories]
    augmented = pa.table(
        {
            "user_id": [user for user, _, _ in owners],
            "item_ids": ids,
            "domains": [[domain] * size for (_, _, domain), size in zip(owners, sizes, strict=True)],
            "timestamps": pa.array([list(range(size)) for size in sizes], pa.list_(pa.int64())),
            "splits": [[TRAIN] * size for size in sizes],
            "synthetic": synthetic,
        }
    )
    teacher = Teacher(known, rng, strict and len(domains) == 1)
    for domain in domains:
        mine = pa.array([owner == domain for _, _, owner in owners])
        rows = profile_rows(augmented.filter(mine), clusters, cfg.last_items, [domain])
        profile_domains(rows, items, teacher, cfg, about)
    if len(domains) == 1:
        return teacher.lessons, []
    merger = Teacher(known, rng, strict, teacher.profiles)
    texts = [json.loads(lesson.reply)["profile"] for lesson in teacher.lessons]
    alone = rng.random(count) < 0.2  # of many users only one domain is known
    parts = [
        [(domain, text, int(rng.integers(1, 40))) for domain, text in zip(domains, texts[number::count], strict=True)]
        for number in range(count)
    ]
    parts = [some[:1] if single else some for some, single in zip(parts, alone, strict=True)]
    merged = pa.table(
        {
            "user_id": [f"u{number}" for number in range(count)],
            **{
                name: [[part[index] for part in some] for some in parts]
                for index, name in enumerate(("domains", "texts", "evidences"))
            },
        }
    )
    profile_users(merged, merger, cfg)
    return teacher.lessons, merger.lessons


def _items(histories: Sequence[Sequence[Kind]]) -> tuple[pa.Table, list[list[str]]]:
    """Return an items table with an id of its own for every item of every history, and the ids by history."""
    ids = [[f"i{row}-{index}" for index in range(len(history))] for row, history in enumerate(histories)]
    names = [item.title for history in histories for item in history]
    flat = [one for row in ids for one in row]
    return pa.table({"item_id": flat, "title": names, "text": names}), ids


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _json(answer: Mapping[str, Any]) -> str:
    """Return JSON as vLLM's schema holds it: no white space between its parts."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
