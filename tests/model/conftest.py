"""A small random training set with everything in it: two domains, synthetic items, profiles, items without text."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_lake.schemas import SPLITS, TRAINING_SET
from data_lake.tables import check, write_parts
from model.__main__ import main
from model.config import TrainConfig
from model.data.training_set import TrainingSet

USERS, ITEMS, TEXT, PROFILE = 40, 30, 6, 5


def tiny_tables(seed: int = 0) -> dict[str, pa.Table]:
    """Return the tables of TRAINING_SET: items 1..15 are of domain "a", the others of "b"; odd users have profiles."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(1, USERS + 1):
        start = int(rng.integers(ITEMS))
        length = int(rng.integers(6, 12))
        items = [(start + 7 * step) % ITEMS + 1 for step in range(length)]
        splits = [0] * (length - 2) + [SPLITS.index("validation"), SPLITS.index("test")]
        synthetic = [False] * length
        if user % 2:
            items.insert(3, int(rng.integers(1, ITEMS + 1)))
            splits.insert(3, 0)
            synthetic.insert(3, True)
        rows.append({
            "user": user, "items": items, "times": list(range(len(items))), "splits": splits, "synthetic": synthetic,
            "weights": [0.0] * len(items),
        })  # fmt: skip
    numbers = range(1, ITEMS + 1)
    vectors = rng.normal(size=(ITEMS, TEXT)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with_profile = [user for user in range(1, USERS + 1) if user % 2]
    scopes = ["a", "all", "b"]
    trained = [
        item
        for row in rows
        for item, split, fake in zip(row["items"], row["splits"], row["synthetic"], strict=True)
        if split == 0 and not fake
    ]
    tables = {
        "sequences": pa.Table.from_pylist(rows, TRAINING_SET.tables["sequences"]),
        "users": pa.table({
            "user": pa.array(range(1, USERS + 1), pa.int32()),
            "user_id": [f"u{user}" for user in range(1, USERS + 1)],
            "key": pa.array(range(100, 100 + USERS), pa.uint64()),
        }),
        "items": pa.table({
            "item": pa.array(numbers, pa.int32()),
            "item_id": [f"i{item}" for item in numbers],
            "domain": ["a" if item <= ITEMS // 2 else "b" for item in numbers],
            "title": [f"item {item}" for item in numbers],
            "train_actions": [trained.count(item) for item in numbers],
            "key": pa.array(range(1000, 1000 + ITEMS), pa.uint64()),
        }),
        "item_vectors": pa.table({
            "item": pa.array(numbers, pa.int32()),
            "vector": pa.array(
                [None if item % 10 == 0 else vectors[item - 1].tolist() for item in numbers], pa.list_(pa.float32())
            ),
        }),
        "profile_vectors": pa.table({
            "user": pa.array(np.repeat(with_profile, len(scopes)), pa.int32()),
            "scope": scopes * len(with_profile),
            "vector": pa.array(
                rng.normal(size=(len(with_profile) * len(scopes), PROFILE)).tolist(), pa.list_(pa.float32())
            ),
        }),
        "info": pa.table({
            "contract_version": pa.array([3], pa.int32()), "candidates_seed": [7], "domains": [["a", "b"]],
            "times": ["real"],
        }),
    }  # fmt: skip
    return {name: check(table, TRAINING_SET, name) for name, table in tables.items()}


@pytest.fixture
def tiny() -> TrainingSet:
    return TrainingSet.from_tables(tiny_tables())


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "training_set"
    for name, table in tiny_tables().items():
        write_parts(table, folder / name)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of the tiny training set, and that of a run of both phases on it."""
    place = tmp_path_factory.mktemp("trained")
    for name, table in tiny_tables().items():
        write_parts(table, place / "data" / name)
    (place / "train.json").write_text(json.dumps(SMALL))
    arguments = ["train", "--data", place / "data", "--out", place / "run", "--config", place / "train.json"]
    assert main(list(map(str, arguments))) == 0
    return place / "data", place / "run"


@pytest.fixture
def small() -> TrainConfig:
    """Settings of a network that trains in a blink."""
    return TrainConfig.model_validate(SMALL)


SMALL = {
    "network": {
        "hidden": 8, "blocks": 2, "heads": 2, "feedforward": 16, "max_length": 8, "dropout": 0.1, "bottleneck": 4,
    },
    "loss": {"negatives": 6, "half_after_actions": 0, "half_after_days": 0},
    "pretrain": {"epochs": 3, "batch_size": 8, "learning_rate": 0.01},
    "finetune": {"epochs": 2, "batch_size": 8, "learning_rate": 0.01},
    "threads": 1,
    "device": "cpu",
}  # fmt: skip
