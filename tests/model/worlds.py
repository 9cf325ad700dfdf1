"""Tiny training sets written as words, and a scorer that says what it is told."""

import hashlib
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from data_lake.schemas import SPLITS, TRAINING_SET
from data_lake.tables import check
from model.data.training_set import TrainingSet


def world(
    users: Mapping[str, str], items: Mapping[str, str], *, seed: int = 7, no_text: str = "", times: str = "real"
) -> TrainingSet:
    """Build a training set from {user: "f1 f2@5 *k1 f3:validation f4:test"} and {domain: "f1 f2 f3"}.

    A word is an item; `*` before it makes it synthetic, `@` gives its time (default: its place), `:` its split (train).
    """
    domain_of = {item: domain for domain, names in items.items() for item in names.split()}
    number = {item: at for at, item in enumerate(domain_of, start=1)}
    rows, trained = [], Counter[str]()
    vectors = [None if item in no_text.split() else [1.0, 0.0] for item in number]
    for user, text in enumerate(users.values(), start=1):
        row: dict[str, object] = {"user": user}
        steps = []
        for place, word in enumerate(text.split()):
            rest, _, split = word.partition(":")
            item, _, time = rest.lstrip("*").partition("@")
            steps.append((number[item], int(time or place), SPLITS.index(split or "train"), word.startswith("*")))
            trained[item] += not word.startswith("*") and not split
        for at, name in enumerate(("items", "times", "splits", "synthetic")):
            row[name] = [step[at] for step in steps]
        rows.append(row | {"weights": [0.0] * len(steps)})
    tables = {
        "sequences": pa.Table.from_pylist(rows, TRAINING_SET.tables["sequences"]),
        "users": pa.table({
            "user": pa.array(range(1, len(users) + 1), pa.int32()),
            "user_id": list(users),
            "key": pa.array([key(user) for user in users], pa.uint64()),
        }),
        "items": pa.table({
            "item": pa.array(number.values(), pa.int32()),
            "item_id": list(number),
            "domain": list(domain_of.values()),
            "title": [f"title of {item}" for item in number],
            "train_actions": [trained[item] for item in number],
            "key": pa.array([key(item) for item in number], pa.uint64()),
        }),
        "item_vectors": pa.table({
            "item": pa.array(number.values(), pa.int32()),
            "vector": pa.array(vectors, pa.list_(pa.float32())),
        }),
        "profile_vectors": TRAINING_SET.tables["profile_vectors"].empty_table(),
        "info": pa.table({
            "contract_version": pa.array([3], pa.int32()), "candidates_seed": [seed], "domains": [list(items)],
            "times": [times],
        }),
    }  # fmt: skip
    return TrainingSet.from_tables({name: check(table, TRAINING_SET, name) for name, table in tables.items()})


def key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


class Told:
    """Scores from {user: "f1=3 f2=0.5"}; what is not told scores 0. Remembers each call."""

    def __init__(self, data: TrainingSet, told: Mapping[str, str]) -> None:
        self.data = data
        self.told = {user: dict(word.split("=") for word in text.split()) for user, text in told.items()}
        self.calls: list[tuple[list[str], list[int], str]] = []

    def __call__(self, users: NDArray[np.int64], cuts: NDArray[np.int64], domain: str) -> torch.Tensor:
        names = [self.data.user_ids[int(user)].as_py() for user in users]
        self.calls.append((names, cuts.tolist(), domain))
        columns = self.data.domain_items[self.data.domains.index(domain)]
        items = self.data.item_ids.take(pa.array(columns)).to_pylist()
        return torch.tensor([[float(self.told.get(name, {}).get(item, 0)) for item in items] for name in names])
