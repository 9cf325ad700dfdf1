import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_lake.errors import UserError
from data_lake.schemas import RECOMMENDATIONS
from data_lake.tables import check
from model.config import NetworkConfig, RecommendConfig
from model.data.sequences import Sequences
from model.evaluation.scoring import NetworkScorer
from model.network.network import build_network
from model.recommend import Recommender, as_lists, read_lists, top_items, write_lists
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


def test_what_is_not_allowed_or_denied_is_not_recommended(tmp_path):
    data = world({"a": "k1", "b": "f1"}, ITEMS)
    (tmp_path / "allow.txt").write_text("f1\n f2 \nf3\nf2\nnothing\n")
    pq.write_table(pa.table({"title": ["x"], "item_id": ["f2"]}), tmp_path / "deny.parquet")
    cfg = RecommendConfig(allow=tmp_path / "allow.txt", deny=tmp_path / "deny.parquet")
    told = Told(data, {"a": "f2=9 f4=8 f3=7"})
    table = top_items(data, told, cfg, allowed=read_lists(data, cfg))
    found = [(row["user_id"], row["rank"], row["item_id"]) for row in table.to_pylist()]
    assert found == [("a", 1, "f3"), ("a", 2, "f1"), ("b", 1, "f3")]


def test_ids_that_the_catalogue_lacks_are_counted_and_all_of_them_are_an_error(tmp_path, capsys):
    data = world({"a": "k1"}, ITEMS)
    (tmp_path / "allow.csv").write_text("item_id,stock\n007,1\nf1,2\n")
    assert read_lists(data, RecommendConfig(allow=tmp_path / "allow.csv")).sum() == 1
    assert capsys.readouterr().err == "allow.csv: ids that the catalogue lacks: 1 of 2.\n"
    (tmp_path / "allow.csv").write_text("item_id\n007\n")
    with pytest.raises(UserError, match="None of the 1 ids to allow is an item of the catalogue"):
        read_lists(data, RecommendConfig(allow=tmp_path / "allow.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "cannot be read as a list of item_id: .*No such file"),
        ("bad.parquet", b"no", "cannot be read as a list of item_id"),
        ("odd.txt", b"\xff\xfe", "cannot be read as a list of item_id"),
        ("other.csv", b"sku,stock\n1,2\n", "no column 'item_id'. It has sku, stock"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_lists(world({"a": "k1"}, ITEMS), RecommendConfig(deny=tmp_path / name))


def test_only_the_domains_that_are_asked_for_are_recommended():
    data = world({"a": "k1 f1"}, ITEMS)
    told = Told(data, {})
    assert set(top_items(data, told, RecommendConfig(), domains=["food"])["domain"].to_pylist()) == {"food"}
    assert len(told.calls) == 1
    with pytest.raises(UserError, match=r"There is no domain 'fod'\. The model knows kitchen, food\."):
        top_items(data, told, RecommendConfig(), domains=["fod"])


WORLD = world({"b": "f1@1 *k1@1 f2@3 k2@8:validation f3@9:test", "a": "k1@2 f5@5 f5@7", "c": "f4@9"}, ITEMS)


def recommender(**settings):
    """Return one that has learnt nothing; its scores are of random weights, and of popularity where it is on."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig(hidden=8, max_length=4, **settings), WORLD, 0)
    network.add_domain_adapters(2)
    if network.recency_popularity is not None:
        torch.nn.init.ones_(network.recency_popularity.weight)
    return Recommender(WORLD, NetworkScorer(network.eval(), WORLD, Sequences(WORLD, 4, torch.device("cpu"))))


def test_served_lists_are_those_of_the_training_set_for_the_same_actions():
    ours = recommender()
    nightly = top_items(WORLD, ours.scorer, RecommendConfig())
    stored = ours.recommend(GIVEN, RecommendConfig())
    assert stored.recommendations == nightly
    assert stored.histories.already_stored == GIVEN.num_rows
    alone = Recommender(world({}, ITEMS), ours.scorer)
    real = pa.table({"user_id": ["new", "new", "new"], "item_id": ["k1", "f5", "f5"]})
    found = alone.recommend(real, RecommendConfig()).recommendations
    assert found.drop(["user_id"]) == nightly.filter(pa.compute.equal(nightly["user_id"], "a")).drop(["user_id"])


GIVEN = pa.table({
    "user_id": ["a", "b", "c", "b", "a", "a", "b", "b"],
    "item_id": ["k1", "f1", "f4", "f2", "f5", "f5", "k2", "f3"],
    "time": [2, 1, 9, 3, 5, 7, 8, 9],
})  # fmt: skip


def test_an_action_of_today_changes_the_scores_and_is_not_recommended_again():
    ours = recommender()
    before = ours.recommend(GIVEN, RecommendConfig(), users=pa.array(["c"])).recommendations
    today = pa.table({"user_id": ["c"], "item_id": ["f1"]})
    after = ours.recommend(today, RecommendConfig()).recommendations
    assert set(before["item_id"].to_pylist()) - set(after["item_id"].to_pylist()) == {"f1"}
    scores = [
        dict(zip(table["item_id"].to_pylist(), table["score"].to_pylist(), strict=True)) for table in (before, after)
    ]
    assert scores[0]["f2"] != scores[1]["f2"]


def test_who_has_no_known_item_gets_what_is_popular_now_and_it_is_said():
    served = recommender().recommend(pa.table({"user_id": ["n", "n"], "item_id": ["x", "y"]}), RecommendConfig(top=2))
    assert served.recommendations.filter(pa.compute.field("domain") == "food")["item_id"].to_pylist()[:1] == ["f5"]
    assert served.notes() == [
        "Actions on unknown items, not read: 2 of 2 (x, y).",
        "Users without a known item: 1 of 1. They get what is popular now.",
    ]


def test_who_has_no_known_item_gets_nothing_from_a_model_without_popularity_and_it_is_said():
    served = recommender(recency_half_lives=()).recommend(
        pa.table({"user_id": ["n", "m"], "item_id": ["x", "f1"]}), RecommendConfig()
    )
    assert set(served.recommendations["user_id"].to_pylist()) == {"m"}
    assert (
        "Users without a known item: 1 of 2. They get nothing, for this model knows no recent popularity"
        in served.notes()[1]
    )


def test_an_item_without_a_training_action_is_read_by_its_text():
    ours = recommender()
    cold, empty = (
        ours.recommend(pa.table({"user_id": ["n"], "item_id": [item]}), RecommendConfig(), domains=["food"])
        for item in ("k2", "gone")
    )
    assert WORLD.train_actions[WORLD.item_ids.to_pylist().index("k2")] == 0
    assert (cold.by_popularity, empty.by_popularity) == (0, 1)
    assert cold.recommendations["score"] != empty.recommendations["score"]


def test_queries_and_items_multiply_to_the_scores():
    ours = recommender().scorer
    users, lengths = np.arange(3), WORLD.lengths
    queries, popularity = ours.queries(users, lengths, "food"), ours(users, lengths, "food")  # also sets the keys
    assert torch.allclose((queries @ ours.keys.T + ours.popularity[-1]) / 0.07, popularity, atol=1e-5)


def test_lists_as_json_lines_hold_titles(tmp_path):
    data = world({"a": "k1 k2 f1 f2 f3 f4", "b": "f1 k1"}, ITEMS)
    table = top_items(data, Told(data, {"b": "f3=1"}), RecommendConfig(top=2))
    write_lists(table, tmp_path / "lists.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text().splitlines()]
    assert lines == as_lists(table)
    assert lines[2] == {
        "user": "b", "domain": "food",
        "items": [
            {"item": "f3", "title": "title of f3", "score": 1.0}, {"item": "f2", "title": "title of f2", "score": 0.0},
        ],
    }  # fmt: skip
    assert [(line["user"], line["domain"]) for line in lines] == [("a", "food"), ("b", "kitchen"), ("b", "food")]
