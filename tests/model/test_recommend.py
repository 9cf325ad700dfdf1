import pytest

from data_lake.errors import UserError
from data_lake.schemas import RECOMMENDATIONS
from data_lake.tables import check
from model.config import RecommendConfig
from model.recommend import top_items
from tests.model.worlds import Told, world

ITEMS = {"kitchen": "k1 k2", "food": "f1 f2 f3 f4 f5"}


def test_the_best_unseen_items_of_every_domain_come_in_order():
    data = world({"b": "f1 f2:validation f3:test", "a": "k1 *f1 k2:test"}, ITEMS)
    told = Told(data, {"a": "f1=3 f2=-1 f3=7 f4=5", "b": "f1=9 f2=9 f3=9 f5=2 f4=1 k2=1"})
    table = top_items(data, told, RecommendConfig(top=3))
    check(table, RECOMMENDATIONS)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a", "food", 1, "f3", "title of f3", 7.0),  # nothing is left of kitchen
        ("a", "food", 2, "f4", "title of f4", 5.0),
        ("a", "food", 3, "f1", "title of f1", 3.0),  # inserted, never bought
        ("b", "kitchen", 1, "k2", "title of k2", 1.0),
        ("b", "kitchen", 2, "k1", "title of k1", 0.0),
        ("b", "food", 1, "f5", "title of f5", 2.0),
        ("b", "food", 2, "f4", "title of f4", 1.0),
    ]


def test_the_scorer_reads_everything_up_to_the_last_action():
    data = world({"a": "f1 *f2 f3 k1:validation k2:test *f4", "b": "f1 f2"}, ITEMS)
    told = Told(data, {})
    top_items(data, told, RecommendConfig())
    assert told.calls == [(["b", "a"], [2, 6], "kitchen"), (["b", "a"], [2, 6], "food")]


def test_equal_scores_stand_in_item_order_and_batches_leave_no_trace():
    data = world({"a": "k1 k2", "b": "f1 k1", "c": "f5"}, ITEMS)
    told = Told(data, {"c": "f3=1 f4=2 f2=1 f1=1"})
    table = top_items(data, told, RecommendConfig(top=4))
    items = {user: [row["item_id"] for row in table.to_pylist() if row["user_id"] == user] for user in "abc"}
    assert items == {
        "a": ["f1", "f2", "f3", "f4"], "b": ["k2", "f2", "f3", "f4", "f5"], "c": ["k1", "k2", "f4", "f1", "f2", "f3"],
    }  # fmt: skip
    assert top_items(data, told, RecommendConfig(top=4, batch_size=1)) == table


def test_a_score_that_is_not_finite_stops_the_recommendations():
    data = world({"a": "f1"}, ITEMS)
    with pytest.raises(UserError, match="checkpoint: the score of user 'a' for item 'f2' of domain 'food' is nan"):
        top_items(data, Told(data, {"a": "f2=nan"}), RecommendConfig(), "checkpoint")
