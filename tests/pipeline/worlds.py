"""Small worlds for the enrichment stages, and stand-ins for the encoder, the generator and the cache."""

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from data_lake.schemas import ITEM_EMBEDDINGS, ITEMS, PROBES, SEQUENCES
from data_lake.tables import check
from pipeline.assemble import Assembly, no_profile_vectors, number_users, profile_vectors
from pipeline.augment.generate_items import generate_items, generation_rows, pairs_of
from pipeline.augment.ground import Grounder, Known
from pipeline.augment.noise_filter import Learnt, NoiseFilter, Worth
from pipeline.augment.represent import represent
from pipeline.augment.truth import PARTS
from pipeline.config import EnrichConfig
from pipeline.llm.cooccurrence import Neighbours
from pipeline.llm.generator import ItemsQuestion, Reply, no_listener
from pipeline.llm.tokens import BY_CHARACTERS
from pipeline.vectors.catalogue import Catalogue
from pipeline.vectors.embed_items import embed_items

DOMAINS = ("food", "kitchen", "garden")
NO_PROBES = PROBES.tables[""].empty_table()


class Angles:
    """Encodes a text that ends in a number as the direction of that many degrees; other texts by their letters."""

    model, revision = "angles", "1"

    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        last = [text.split()[-1] for text in texts]
        degrees = [
            float(word) if word.isdigit() else sum(map(ord, text)) for word, text in zip(last, texts, strict=True)
        ]
        radians = np.radians(np.array(degrees, dtype=np.float64).reshape(-1))
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


class FakeGenerator:
    """A generator that stands for a language model and keeps what it was asked; a subclass says what it answers."""

    asks_model = True
    reads = ()
    last_words = ""

    def __init__(self, identity=None, tokens=BY_CHARACTERS):
        self.identity, self.fingerprint, self.tokens = identity or {"model": "fake"}, {}, tokens
        self.requests = []

    @property
    def asked(self):
        """The last message of each request."""
        return [request.messages[-1]["content"] for request in self.requests]

    def answer(self, request):
        """Return the reply to a request."""
        raise NotImplementedError

    def __call__(self, requests, on_reply=no_listener):
        replies = []
        for index, request in enumerate(requests):
            self.requests.append(request)
            replies.append(self.answer(request))
            on_reply(index, replies[-1])
        return replies

    def read(self, tables):
        """Need no catalogue."""

    def remember_in(self, cache):
        """Send nothing."""

    def counts(self):
        """Count nothing."""
        return {}

    def close(self, patience=15.0):
        """Hold nothing."""


class Answering(FakeGenerator):
    """Answers a question about items by a function of it, and every other one by its task and its prompt's length."""

    def __init__(self, items=lambda question: [f"{question.to_domain} 10"]):
        super().__init__({"model": "answering"})
        self.items = items

    def answer(self, request):
        if isinstance(request.question, ItemsQuestion):
            return Reply(json.dumps({"items": self.items(request.question)}))
        return Reply(json.dumps({"profile": f"{request.question.task} {len(request.messages[1]['content'])}"}))


class Scripted(FakeGenerator):
    """Answers with the replies that it was given, in order."""

    def __init__(self, *replies, tokens=BY_CHARACTERS):
        super().__init__({"model": "scripted"}, tokens)
        self.replies = list(replies)

    def answer(self, request):
        return self.replies.pop(0)


class DictCache:
    """A cache of one column in a dict."""

    def __init__(self, column="centres"):
        self.column, self.rows = column, {}

    def get(self, keys):
        known = [key for key in keys if key in self.rows]
        return pa.table({"key": known, self.column: [self.rows[key] for key in known]})

    def put(self, table):
        self.rows |= {row["key"]: row[self.column] for row in table.to_pylist()}


def items_question(item_ids=("food_0",), answers=3, user_id="u", titles=()):
    """Which items of kitchen would the user choose who chose these in food?"""
    return ItemsQuestion(user_id, "food", "kitchen", tuple(item_ids), tuple(titles), answers)


def items_table(**degrees):
    """Items `food_10` of the domain before the underscore; a degree of None has no text."""
    ids = [f"{domain}_{degree}" for domain, all_ in degrees.items() for degree in all_]
    domains = [domain for domain, all_ in degrees.items() for _ in all_]
    texts = [None if degree is None else f"{domain} {degree}" for domain, all_ in degrees.items() for degree in all_]
    return pa.table([ids, domains, texts, texts], schema=ITEMS.tables[""])


def sequences_table(**users):
    """Sequences of train items; a user's last two actions are validation and test."""
    rows = []
    for user, text in users.items():
        ids = text.split()
        times = [datetime.fromtimestamp(1000 + i, UTC) for i in range(len(ids))]
        splits = ["train"] * (len(ids) - 2) + ["validation", "test"]
        rows.append({
            "user_id": user, "item_ids": ids, "domains": [i.split("_")[0] for i in ids], "timestamps": times,
            "splits": splits,
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SEQUENCES.tables[""])


def embedded(items):
    return Catalogue.of(check(embed_items(items, Angles()), ITEM_EMBEDDINGS))


def rows_of(table, *columns):
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


def worth(*weights, edges=()):
    """What the answers of a pair are worth, a weight per band; a band without one is worth nothing."""
    bands = tuple({"band": band, "weight": weight} for band, weight in enumerate(weights))
    return Worth(edges, bands, users=100)


def known_of(items, sequences, catalogue, probes=NO_PROBES, prompt_share=0.9):
    """What grounding knows besides the answers."""
    return Known(items, catalogue, Neighbours([sequences], probes, prompt_share, items))


def filter_of(**worths):
    """A noise filter in which relevance is the text's cosine, with the worth of each `food_kitchen`."""
    learnt = Learnt({}, {tuple(pair.split("_")): each for pair, each in worths.items()})
    return NoiseFilter([learnt] * PARTS, {}, seed=0)


def rows_to_ask(representatives, cfg, domains=("food", "kitchen")):
    """The questions of every pair of domains."""
    return generation_rows(representatives, pairs_of(cfg, domains), domains)


def grounded_by(answers, noise_filter=True, budget=2, food_kitchen=None, **settings):
    items = items_table(food=[0, 2, 50, 90], kitchen=[0, 10, 12, 30, 60, 120, 180])
    cfg = EnrichConfig(noise_filter=noise_filter, budget=budget, prompt_share=0.9, **settings)
    sequences = sequences_table(
        u="food_0 food_0 food_2 food_0 food_0 food_0 food_0 food_0 food_0 kitchen_12 food_90 kitchen_30 kitchen_60"
    )
    catalogue = embedded(items)
    representatives = represent(sequences, catalogue, cfg, ("food", "kitchen"))
    generator = Answering(lambda question: answers)
    generated = generate_items(
        rows_to_ask(representatives, cfg),
        items,
        generator,
        cfg,
        {},
    )
    known = known_of(items, sequences, catalogue)
    grounder = Grounder(known, cfg, ("food", "kitchen"))
    filtered = filter_of(food_kitchen=food_kitchen or worth(0.2, 0.2, 0.2, 0.2))
    table = grounder.ground(sequences, known.answered(generated, representatives), Angles(), filtered)
    return table, sequences, catalogue, cfg, grounder


def assemble(sequences, items, item_embeddings, profiles, domains, seed, times="real"):
    """Return the tables of TRAINING_SET, of sequences in one part."""
    assembly = Assembly(items, domains)
    numbered = assembly.sequences(sequences)
    [users] = number_users([sequences])
    return {
        "sequences": numbered,
        "users": users,
        "items": assembly.items(),
        "item_vectors": pa.concat_tables(assembly.item_vectors(item_embeddings)),
        "profile_vectors": no_profile_vectors() if profiles is None else profile_vectors(users, profiles, domains),
        "info": assembly.info(seed, times),
    }
