"""Answers against what users really chose: probes, truth, shares and chance by hand."""

from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
import pytest

from data_lake.errors import UserError
from data_lake.schemas import ANSWER_LIFT, GROUNDED_ITEMS, ITEMS, PROBES, SEQUENCES
from data_lake.tables import check
from pipeline.augment.measure_answers import measure_answers
from pipeline.augment.probe import probe
from pipeline.augment.truth import all_truth
from pipeline.config import EnrichConfig
from pipeline.llm.cooccurrence import Neighbours
from tests.pipeline.worlds import NO_PROBES

CFG = EnrichConfig(prompt_share=0.75, probes=10)


def sequences(**users):
    rows = []
    for user, text in users.items():
        ids = text.split()
        rows.append({
            "user_id": user,
            "item_ids": ids,
            "domains": [item.split("_")[0] for item in ids],
            "timestamps": [datetime.fromtimestamp(day, UTC) for day in range(len(ids))],
            "splits": ["train"] * (len(ids) - 2) + ["validation", "test"],
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SEQUENCES.tables[""])


TWO = "food_1 food_2 food_3 kitchen_1 kitchen_2 kitchen_3 kitchen_9 food_9"
"""Three training actions in each domain, then the validation and the test action."""


def items(**count):
    ids = [f"{domain}_{number}" for domain, many in count.items() for number in range(1, many + 1)]
    return pa.table([ids, [item.split("_")[0] for item in ids], ids, ids], schema=ITEMS.tables[""])


def grounded(*rows):
    """(user, to_domain, item, kept) in the order of their ranks."""
    ranks: dict[str, int] = {}
    table = []
    for user, to, item, kept in rows:
        ranks[user] = ranks.get(user, -1) + 1
        table.append({
            "user_id": user, "from_domain": "food" if to == "kitchen" else "kitchen", "to_domain": to,
            "answer_index": ranks[user], "answer": item, "item_id": item, "title": item, "kept": kept,
            "reason": None if kept else "irrelevant",
        })  # fmt: skip
    return pa.Table.from_pylist(table, schema=GROUNDED_ITEMS.tables[""])


def test_a_probe_hides_one_domain_of_a_user_of_two_and_shows_training_actions_only():
    users = sequences(two=TWO, one="food_1 food_2 food_3 food_4 food_5")
    [row] = check(probe(lambda: [users], CFG), PROBES).to_pylist()
    hidden, shown = row["hidden_domain"], "food" if row["hidden_domain"] == "kitchen" else "kitchen"
    assert row["user_id"] == f"two without {hidden}"
    assert row["real_user_id"] == "two"
    assert row["item_ids"] == [f"{shown}_{number}" for number in (1, 2, 3)]
    assert row["hidden_items"] == [f"{hidden}_{number}" for number in (1, 2, 3)]
    assert (row["domains"], row["splits"]) == ([shown] * 3, ["train"] * 3)


def test_probes_are_chosen_by_a_seed_and_stay_when_other_users_come():
    users = {f"u{number}": TWO for number in range(20)}
    cfg = EnrichConfig(probes=5)
    chosen = probe(lambda: [sequences(**users)], cfg)["real_user_id"].to_pylist()
    assert len(chosen) == 5
    more = probe(lambda: [sequences(**users, new=TWO)], cfg)["real_user_id"].to_pylist()
    assert len(set(chosen) - set(more)) <= 1
    assert probe(lambda: [sequences(**users)], EnrichConfig(probes=5, seed=1))["real_user_id"].to_pylist() != chosen
    assert probe(lambda: [sequences(**users)], EnrichConfig(probes=0)).num_rows == 0


def test_users_with_much_to_hide_come_first_and_others_fill_up():
    few = "food_1 food_2 food_3 kitchen_1 food_8 food_9"
    users = {
        "a": few,
        "b": few,
        "c": TWO,
        "lone": "food_1 food_2 food_3 food_4 food_5",
        "short": "food_1 kitchen_1 food_5",
    }

    def probed(count):
        return set(probe(lambda: [sequences(**users)], EnrichConfig(probes=count))["real_user_id"].to_pylist())

    assert probed(1) == {"c"}
    assert probed(9) == {"a", "b", "c"}


def test_a_user_who_is_called_as_a_probe_is_an_error():
    users = sequences(two=TWO)
    probes = probe(lambda: [users], CFG)
    clash = sequences(**{probes["user_id"][0].as_py(): TWO})
    with pytest.raises(UserError, match="The user 'two without food' is called as a probe is"):
        Neighbours([clash], probes, CFG.prompt_share, items(food=3, kitchen=3))


def lift(users, probes, answers, clusters=None, **catalogue):
    known, neighbours = items(**catalogue), Neighbours([users], probes, CFG.prompt_share, items(**catalogue))
    baselines = {"cooccurrence": neighbours.items, "popular": partial(neighbours.items, by_neighbours=False)}
    nobody = pa.table({"user_id": pa.array([], pa.string()), "domain": pa.array([], pa.string()),
                       "item_ids": pa.array([], pa.list_(pa.string()))})  # fmt: skip
    clustered = pa.table(
        {"item_id": pa.array(clusters or {}, pa.string()), "cluster": pa.array((clusters or {}).values(), pa.int32())}
    )
    table = measure_answers(all_truth(users, probes, CFG), nobody, answers, known, clustered, baselines)
    return {(row["truth"], row["source"], row["band"]): row for row in check(table, ANSWER_LIFT).to_pylist()}


def test_the_later_part_of_a_training_prefix_is_truth():
    # prompts show 3 of the 4 training actions; kitchen_1 is what the user chose later, kitchen_8 a validation action
    users = sequences(u="food_1 food_2 food_3 kitchen_1 kitchen_8 kitchen_9")
    answers = grounded(("u", "kitchen", "kitchen_1", True), ("u", "kitchen", "kitchen_8", True))
    rows = lift(users, probe(lambda: [users], CFG), answers, food=3, kitchen=10)
    kept = rows["unshown", "kept", None]
    assert (kept["users"], kept["answers"], kept["share"], kept["chance"]) == (1, 2, 0.5, 0.1)
    assert rows["unshown", "kept", 0]["answers"] == 2


def test_an_item_of_a_cluster_that_the_user_chose_of_is_counted_apart():
    # the user chose kitchen_1; kitchen_1 to 3 are one cluster, kitchen_4 another, and kitchen_5 has none
    users = sequences(u="food_1 food_2 food_3 kitchen_1 kitchen_8 kitchen_9")
    clusters = {"kitchen_1": 7, "kitchen_2": 7, "kitchen_3": 7, "kitchen_4": 1}
    answers = grounded(*(("u", "kitchen", f"kitchen_{number}", True) for number in (1, 2, 4, 5)))
    kept = lift(users, NO_PROBES, answers, clusters, food=3, kitchen=10)["unshown", "kept", None]
    assert (kept["share"], kept["chance"]) == (0.25, 0.1)
    assert (kept["in_cluster"], kept["in_cluster_by_chance"]) == (0.5, pytest.approx(0.3))


def test_the_hidden_domain_of_a_probe_is_truth_and_a_band_holds_its_ranks():
    users = sequences(two=TWO)
    probes = probe(lambda: [users], CFG)
    name, hidden = probes["user_id"][0].as_py(), probes["hidden_domain"][0].as_py()
    answers = grounded(
        (name, hidden, f"{hidden}_1", True), (name, hidden, f"{hidden}_7", False), (name, hidden, f"{hidden}_3", True)
    )
    rows = lift(users, probes, answers, food=10, kitchen=10)
    assert (rows["hidden", "answers", None]["answers"], rows["hidden", "answers", None]["share"]) == (3, 2 / 3)
    assert (rows["hidden", "kept", None]["answers"], rows["hidden", "kept", None]["share"]) == (2, 1.0)
    assert rows["hidden", "kept", None]["chance"] == pytest.approx(0.3)
    assert [rows["hidden", "kept", band]["answers"] for band in (0, 2)] == [1, 1]


def test_the_items_of_another_user_are_what_a_user_would_have_got_in_their_place():
    histories = {
        "a": "food_1 food_2 food_3 kitchen_1 food_8 food_9",
        "b": "food_1 food_2 food_3 kitchen_2 food_8 food_9",
    }
    users = sequences(**histories)
    answers = grounded(("a", "kitchen", "kitchen_2", True), ("b", "kitchen", "kitchen_2", True))
    rows = lift(users, probe(lambda: [users], CFG), answers, food=3, kitchen=4)
    assert rows["unshown", "kept", None]["share"] == 0.5
    assert rows["unshown", "another user", None]["share"] == 0.5


def test_as_many_items_of_the_baselines_are_held_against_the_same_truth():
    users = sequences(
        u="food_1 food_2 food_3 kitchen_1 food_8 food_9", other="food_1 kitchen_1 food_5 food_6 food_7 food_7",
    )  # fmt: skip
    rows = lift(users, probe(lambda: [users], CFG), grounded(("u", "kitchen", "kitchen_4", True)), food=9, kitchen=4)
    assert rows["unshown", "kept", None]["share"] == 0.0
    assert rows["unshown", "cooccurrence", None]["share"] == 1.0
    assert (rows["unshown", "popular", None]["answers"], rows["unshown", "popular", None]["share"]) == (1, 1.0)


def test_no_validation_or_test_action_is_read():
    users = sequences(two=TWO, u="food_1 food_2 food_3 kitchen_1 kitchen_8 kitchen_9")
    probes = probe(lambda: [users], CFG)
    answers = grounded(("u", "kitchen", "kitchen_9", True), ("u", "kitchen", "kitchen_1", True))
    other = sequences(
        two=TWO.replace("kitchen_9 food_9", "food_7 kitchen_7"), u="food_1 food_2 food_3 kitchen_1 food_9 food_8"
    )
    assert probe(lambda: [other], CFG) == probes
    assert lift(other, probes, answers, food=10, kitchen=10) == lift(users, probes, answers, food=10, kitchen=10)


def test_without_answers_there_are_no_rows():
    users = sequences(two=TWO)
    assert lift(users, probe(lambda: [users], CFG), grounded(), food=3, kitchen=3) == {}
