"""What makes a score: its parts, and the history items that it would differ most without."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_lake.errors import UnknownIdError
from model.config import RecommendConfig
from model.explain import explain
from model.recommend import Recommender

CFG = RecommendConfig(device="cpu", top=4)


@pytest.fixture(scope="module")
def model(trained: tuple[Path, Path]) -> Recommender:
    data, run = trained
    return Recommender.load(data, run / "checkpoint", CFG)


@pytest.mark.parametrize("lengths", [np.full(40, 4), np.arange(40) % 5])
@pytest.mark.parametrize("domain", ["a", "b"])
def test_the_parts_of_a_score_sum_to_it(model: Recommender, domain: str, lengths: np.ndarray) -> None:
    users = np.arange(40)
    parts = model.scorer.parts(users, lengths, domain)
    assert list(parts) == ["shared", "domain", "recent popularity"]
    assert sum(parts.values()).numpy() == pytest.approx(model.scorer(users, lengths, domain).numpy(), abs=1e-4)
    assert all(part.abs().max() > 0 for part in parts.values())


def test_the_best_items_are_those_that_are_recommended_with_their_scores(model: Recommender) -> None:
    served = model.recommend(
        pa.table({"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())}),
        CFG, users=pa.array(["u3"]),
    ).recommendations.to_pylist()  # fmt: skip
    found = explain(model, "u3", CFG)
    assert [(each.domain, each.rank, each.item_id, each.title) for each in found] == [
        (row["domain"], row["rank"], row["item_id"], row["title"]) for row in served
    ]
    assert [each.score for each in found] == pytest.approx([row["score"] for row in served], abs=1e-4)
    assert all(sum(each.parts.values()) == pytest.approx(each.score, abs=1e-4) for each in found)


def test_a_score_without_an_item_is_that_of_the_history_without_it(model: Recommender) -> None:
    [found] = explain(model, "u2", CFG, item="i5")  # of a user without synthetic items
    row = model.data.user_ids.to_pylist().index("u2")
    history = model.data.items[model.data.offsets[row] : model.data.offsets[row + 1]].tolist()[-8:]  # max_length
    left_out = {each.item_id: each.score for each in found.left_out}
    assert sorted(left_out) == sorted({f"i{item}" for item in history})
    whole = model.data.items[model.data.offsets[row] : model.data.offsets[row + 1]].tolist()
    shorter = [f"i{item}" for item in whole if f"i{item}" != found.left_out[0].item_id]
    given = pa.table({"user_id": ["new"] * len(shorter), "item_id": shorter})
    served = model.recommend(given, RecommendConfig(device="cpu", top=30), domains=["a"]).recommendations.to_pylist()
    [score] = [each["score"] for each in served if each["item_id"] == "i5"]
    assert found.left_out[0].score == pytest.approx(score, abs=1e-4)
    moved = [abs(each.score - found.score) for each in found.left_out]
    assert moved == sorted(moved, reverse=True)


def test_inserted_items_are_marked(model: Recommender) -> None:
    [found] = explain(model, "u1", CFG, item="i30")
    assert sum(each.is_synthetic for each in found.left_out) == 1


def test_an_item_that_the_user_has_chosen_has_a_score_and_no_rank(model: Recommender) -> None:
    item = model.data.item_ids[int(model.data.items[0])].as_py()
    [found] = explain(model, "u1", CFG, item=item)
    assert found.rank is None
    assert found.candidates < 15


@pytest.mark.parametrize(
    ("user", "item", "said"),
    [
        ("u1x", None, "There is no user 'u1x'. Did you mean 'u1' or 'u31' or 'u21'?"),
        ("u1", "i99", "There is no item 'i99'. Did you mean 'i9' or 'i29' or 'i19'?"),
        ("nobody", None, "There is no user 'nobody'. `edt"),
    ],
)
def test_an_unknown_id_is_refused_with_those_nearly_alike(
    model: Recommender, user: str, item: str | None, said: str
) -> None:
    with pytest.raises(UnknownIdError) as refused:
        explain(model, user, CFG, item)
    assert str(refused.value).startswith(said)
