"""Profiles against what users chose and no prompt showed: shares, chance and reasons by hand.

Items and profiles are directions: `food_10` and a profile that ends in 10 are the same vector.
"""

import pyarrow as pa
import pytest

from data_lake.schemas import AUGMENTED_SEQUENCES
from data_lake.tables import check
from pipeline.profile import measure_profiles as module
from pipeline.profile.measure_profiles import complaints, draw_users, measure_profiles, summary
from pipeline.profile.profile_domains import profile_rows
from pipeline.vectors import catalogue as catalogue_module
from tests.pipeline.worlds import Angles, embedded, items_table, sequences_table

ITEMS = {"food": [0, 10, 40, 50, 90, None], "kitchen": [0, 30, 60, 90]}
END = " food_90 kitchen_90"
"""The validation and the test action."""
A_AND_B = {"a": "food_None food_0 food_10" + END, "b": "food_50 food_90" + END}


@pytest.fixture(autouse=True)
def _nearest_one(monkeypatch):
    monkeypatch.setattr(module, "NEAREST", 1)


def augmented(inserted=(), **users):
    """Users by their items; those of `inserted`, (user, item), were not chosen but guessed."""
    plain = sequences_table(**users)
    marks = [
        [(user, item) in inserted for item in items]
        for user, items in zip(plain["user_id"].to_pylist(), plain["item_ids"].to_pylist(), strict=True)
    ]
    weights = [[float(mark) for mark in each] for each in marks]
    kinds = [AUGMENTED_SEQUENCES.tables[""].field(name).type for name in ("synthetic", "weights")]
    columns = {"synthetic": pa.array(marks, kinds[0]), "weights": pa.array(weights, kinds[1])}
    for name, column in columns.items():
        plain = plain.append_column(name, column)
    return check(plain, AUGMENTED_SEQUENCES)


def measure(users, texts, last_items=1):
    """Return the row of each (scope, domain); `texts` has the profile of each (user, scope)."""
    catalogue = embedded(items_table(**ITEMS))
    with_text = [item for item in catalogue.item_ids.to_pylist() if item != "food_None"]
    clusters = pa.table({"item_id": with_text, "cluster": [0] * len(with_text)})
    prompts = profile_rows(users, clusters, last_items, ("food", "kitchen"))
    names = [name for name, _ in texts]
    profiles = pa.table({"user_id": names, "scope": [scope for _, scope in texts], "text": list(texts.values())})
    told = prompts.filter(prompts["item_ids"].list.len() > 0).select("user_id", "domain").to_arrow()
    told = told.append_column("text", pa.array(["…"] * told.num_rows))
    rows = measure_profiles(profiles, told, prompts, users, catalogue, ("food", "kitchen"), Angles())
    return {(row["scope"], row["domain"]): row for row in rows}


def overall(**degrees):
    return {(user, "all"): f"likes {degree}" for user, degree in degrees.items()}


def test_the_share_of_held_out_choices_stands_beside_the_mean_another_user_and_chance():
    # a: shown is 10, held out 0. 2 is nearest to 0, 10 to 0, 41 to 40: found, found, not found.
    # b: shown is 90, held out 50. 41 is nearest to 40, 90 to 50, 2 to 0: not found, found, not found.
    found = measure(augmented(**A_AND_B), overall(a=2, b=41))["all", "food"]
    assert found == {
        "scope": "all", "domain": "food", "users": 2, "choices": 2, "share": 0.5, "low": 0.0, "high": 1.0,
        "mean_of_shown": 1.0, "another_user": 0.0, "chance": 0.25, "not_judged": {},
    }  # fmt: skip


def test_how_users_are_blocked_changes_nothing(monkeypatch):
    whole = measure(augmented(**A_AND_B), overall(a=2, b=41))
    monkeypatch.setattr(catalogue_module, "BLOCK_NUMBERS", 1)
    assert measure(augmented(**A_AND_B), overall(a=2, b=41)) == whole


def test_a_share_is_of_all_choices_and_the_mean_is_that_of_all_shown_items():
    users = augmented(a="food_0 food_50 food_90 food_10" + END)
    found = measure(users, overall(a=48), last_items=2)["all", "food"]
    assert (found["users"], found["choices"], found["share"]) == (1, 2, 0.5)
    assert found["mean_of_shown"] == 0.5  # of 90 and 10 it is 50
    assert "another_user" not in found


def test_from_the_profile_of_a_domain_all_choices_in_another_are_held_out():
    users = augmented(a="food_0 kitchen_0 kitchen_30" + END, b="food_50 kitchen_60" + END)
    found = measure(users, {("a", "food"): "likes 29", ("b", "food"): "likes 61"})
    row = found["food", "kitchen"]
    assert (row["users"], row["choices"], row["share"]) == (2, 3, pytest.approx(2 / 3))
    assert row["mean_of_shown"] == pytest.approx(2 / 3)  # 0 is nearest to 0, 50 to 60
    assert (row["another_user"], row["chance"]) == (0.0, 0.25)
    assert (found["food", "food"]["users"], found["food", "food"]["not_judged"]) == (0, {"nothing_held_out": 2})


def test_who_cannot_be_judged_without_a_leak_is_counted_by_the_reason():
    users = augmented(
        [("c", "kitchen_0")], **A_AND_B, c="food_0 food_10 kitchen_0 kitchen_30" + END, d="food_0" + END,
        e="food_0 food_10 kitchen_30" + END,
    )  # fmt: skip
    texts = overall(a=2, b=41, c=2, d=2) | {("e", "all"): None}
    found = measure(users, texts, last_items=1)["all", "food"]
    assert (found["users"], found["not_judged"]) == (3, {"no_profile": 1, "nothing_held_out": 1})
    found = measure(users, texts, last_items=2)["all", "kitchen"]
    assert found == {
        "scope": "all", "domain": "kitchen", "users": 0,
        "not_judged": {"inserted_shown": 1, "no_profile": 1, "nothing_held_out": 3},
    }  # fmt: skip


def test_a_summary_of_inserted_items_alone_is_not_merged_and_leaves_its_user_judged():
    users = augmented([("a", "kitchen_0")], a="food_0 food_10 kitchen_0" + END)
    found = measure(users, overall(a=2) | {("a", "kitchen"): "likes 0"})
    assert found["all", "food"]["users"] == 1
    assert found["kitchen", "food"]["not_judged"] == {"inserted_shown": 1}


def test_no_more_users_are_judged_than_is_enough(monkeypatch):
    monkeypatch.setattr(module, "JUDGED", 1)
    found = measure(augmented(**A_AND_B, d="food_0" + END), overall(a=2, b=41, d=0))["all", "food"]
    assert (found["users"], found["share"]) == (1, 1.0)
    assert found["not_judged"] == {"enough": 1, "nothing_held_out": 1}


def test_other_validation_and_test_items_change_nothing():
    other = {user: items.replace(END, " kitchen_0 food_0") for user, items in A_AND_B.items()}
    assert measure(augmented(**other), overall(a=2, b=41)) == measure(augmented(**A_AND_B), overall(a=2, b=41))


def test_users_are_drawn_by_chance_the_same_ones_again(monkeypatch):
    monkeypatch.setattr(module, "LOOKED_AT", 40)
    users = augmented(**{f"u{number}": "food_0" + END for number in range(100)})
    known = pa.chunked_array([[f"u{number}" for number in range(50)]])
    drawn = draw_users(users, known)["user_id"].to_pylist()
    assert len(drawn) == len(set(drawn)) == 40
    assert set(drawn) <= set(known.to_pylist())
    assert drawn != sorted(drawn, key=lambda user: int(user[1:]))
    assert draw_users(users, known)["user_id"].to_pylist() == drawn


def row(**figures):
    judged = {"users": 20, "choices": 50, "share": 0.02, "low": 0.01, "high": 0.03, "mean_of_shown": 0.031}
    return {"scope": "food", "domain": "kitchen", **judged, "not_judged": {"no_profile": 3}} | figures


def test_profiles_that_find_less_than_the_mean_of_the_shown_items_are_complained_of():
    assert list(complaints([row()])) == [
        "profiles of food say less than the mean of the shown items: of what 20 users chose in kitchen, the 1 items "
        "nearest to the profile hold 2.00% [1.00%, 3.00%], those nearest to the mean 3.10%"
    ]
    assert list(complaints([row(high=0.031), row(users=19), {"users": 0}])) == []


def test_the_manifest_has_the_figures_of_each_scope_and_domain():
    no_one = {"users": 0, "not_judged": {"no_profile": 9}}
    rows = [row(not_judged={}), {"scope": "all", "domain": "food", **no_one}]
    assert summary(rows)["held_out"] == {
        "found": {
            "food to kitchen": {
                "users": 20, "choices": 50, "share": 0.02, "low": 0.01, "high": 0.03, "mean_of_shown": 0.031,
            },
            "all to food": {"users": 0},
        },
        "not_judged": {"all to food": {"no_profile": 9}},
    }  # fmt: skip
