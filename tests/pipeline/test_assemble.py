import pyarrow as pa

from data_lake.schemas import TRAINING_SET
from data_lake.tables import check
from pipeline.assemble import Assembly, number_users, profile_vectors
from pipeline.vectors.embed_items import embed_items
from tests.pipeline.worlds import Angles, assemble, items_table, rows_of, sequences_table


def test_the_training_set_counts_from_one_and_only_real_training_actions():
    items = items_table(kitchen=[5, None], food=[20, 10])
    sequences = sequences_table(b="food_10 food_10 kitchen_5 food_20", a="food_20 kitchen_5 kitchen_None").sort_by(
        "user_id"
    )
    vectors = embed_items(items, Angles())
    made = {
        name: check(t, TRAINING_SET, name)
        for name, t in assemble(sequences, items, vectors, None, ("kitchen", "food"), 7).items()
    }
    assert rows_of(made["items"], "item", "item_id", "train_actions") == [
        (1, "kitchen_5", 0), (2, "kitchen_None", 0), (3, "food_10", 2), (4, "food_20", 1),
    ]  # fmt: skip
    assert rows_of(made["users"], "user", "user_id") == [(1, "a"), (2, "b")]
    assert made["users"]["key"][0].as_py() == 0xCA978112CA1BBDCA  # SHA-256 of "a"
    assert made["sequences"].to_pylist()[1] == {
        "user": 2, "items": [3, 3, 1, 4], "times": [1_000_000, 1_001_000, 1_002_000, 1_003_000],
        "splits": [0, 0, 1, 2], "synthetic": [False] * 4, "weights": [0.0] * 4,
    }  # fmt: skip
    assert [vector is None for vector in made["item_vectors"]["vector"].to_pylist()] == [False, True, False, False]
    assert made["profile_vectors"].num_rows == 0
    assert made["info"].to_pylist() == [
        {"contract_version": 3, "candidates_seed": 7, "domains": ["kitchen", "food"], "times": "real"}
    ]


def test_the_training_set_says_that_its_times_are_an_order():
    items, sequences = items_table(food=[20]), sequences_table(a="food_20 food_20")
    made = assemble(sequences, items, embed_items(items, Angles()), None, ("food",), 7, "order")
    assert made["info"]["times"].to_pylist() == ["order"]


def test_users_are_numbered_part_by_part_and_items_counted_over_all_parts():
    items = items_table(food=[20, 10])
    parts = [
        sequences_table(c="food_10 food_10 food_10", a="food_20 food_20 food_20"),
        sequences_table(b="food_10 food_20 food_20"),
    ]
    assembly = Assembly(items, ("food",))
    assert [assembly.sequences(part)["user"].to_pylist() for part in parts] == [[1, 2], [3]]
    users = list(number_users(parts))
    assert [rows_of(part, "user", "user_id") for part in users] == [[(1, "a"), (2, "c")], [(3, "b")]]
    assert sum(assembly.items()["train_actions"].to_pylist()) == sum(
        splits.count("train") for part in parts for splits in part["splits"].to_pylist()
    )
    vectors = pa.table({"user_id": ["b", "c"], "scope": ["all", "food"], "vector": [[1.0], [2.0]]})
    assert [profile_vectors(part, vectors, ("food",)).to_pylist() for part in users] == [
        [{"scope": "food", "vector": [2.0], "user": 2}], [{"scope": "all", "vector": [1.0], "user": 3}],
    ]  # fmt: skip
