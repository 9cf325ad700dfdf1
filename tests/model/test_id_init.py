"""Where id vectors start."""

import pytest
import torch
from torch import Tensor, nn

from model.data.training_set import TrainingSet
from model.network.id_init import LENGTH, cooccurrence_vectors, init_ids
from tests.model.worlds import world

ITEMS = {"a": "a1 a2 a3 a4", "b": "b1 b2 b3 b4"}
TWO_CIRCLES = {
    "u": "a1 b1 a2 b2 a1 b1", "v": "b2 a1 b1 a2 b1 a2", "w": "a3 b3 a3 b3", "x": "b3 a3 b3",
}  # fmt: skip
"""a1, a2, b1, b2 stand together; so do a3, b3; a4 and b4 are never read."""


def vectors(users: dict[str, str], size: int = 4, seed: int = 0) -> tuple[TrainingSet, Tensor]:
    data = world(users, ITEMS)
    return data, cooccurrence_vectors(data, size, seed)


def row(data: TrainingSet, item: str) -> int:
    """Number of an item: its place among all, from 1."""
    return int(data.item_ids.to_pylist().index(item))


def test_items_with_the_same_neighbours_are_alike_and_others_are_not() -> None:
    data, found = vectors(TWO_CIRCLES)
    alike = found @ found.T
    assert alike[row(data, "a1"), row(data, "a2")] > 0.5
    for item in ("a1", "a2", "b1", "b2"):
        assert alike[row(data, item), row(data, "a3")].abs() < 1e-5


def test_vectors_have_length_one_and_are_zero_without_neighbours() -> None:
    data, found = vectors(TWO_CIRCLES | {"y": "a4"})
    lengths = {name: float(found[row(data, name)].norm()) for name in " ".join(ITEMS.values()).split()}
    assert lengths == pytest.approx({name: 0.0 if name in ("a4", "b4") else 1.0 for name in lengths}, abs=1e-5)
    assert not found[0].any()


def test_held_out_actions_and_synthetic_items_are_not_read() -> None:
    _, plain = vectors(TWO_CIRCLES)
    _, more = vectors(
        {"u": "a1 *a3 b1 *b4 a2 b2 a1 b1 a3:validation b4:test"} | {k: v for k, v in TWO_CIRCLES.items() if k != "u"}
    )
    assert torch.equal(plain, more)


def test_a_seed_repeats() -> None:
    assert torch.equal(vectors(TWO_CIRCLES, seed=3)[1], vectors(TWO_CIRCLES, seed=3)[1])


def test_more_dimensions_than_items_are_filled() -> None:
    _, found = vectors(TWO_CIRCLES, size=32)
    assert found.shape == (9, 32)
    assert torch.isfinite(found).all()


def test_users_are_sampled_where_actions_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.network.id_init.ACTIONS", 100)
    data, found = vectors({f"u{number}": "a1 b1 a2" if number % 2 else "a3 b3 a4" for number in range(500)})
    alike = found @ found.T
    assert alike[row(data, "a1"), row(data, "a2")] > 0.9
    assert alike[row(data, "a1"), row(data, "a3")].abs() < 1e-5


def test_ids_start_from_these_vectors() -> None:
    data, found = vectors(TWO_CIRCLES)
    ids = nn.Embedding(len(found), 4)
    init_ids(ids, data, 0)
    assert torch.equal(ids.weight, LENGTH * found)
