"""Which actions a trial hides, by hand."""

import pytest

from data_lake.errors import UserError
from pipeline.trial import make_trial
from tests.pipeline.worlds import sequences_table

TWO = "food_1 kitchen_1 food_2 kitchen_2 food_3 kitchen_3 food_4 kitchen_4 food_9 kitchen_9"


def by_user(trial):
    found = {}
    for row in trial.interactions.to_pylist():
        found.setdefault(row["user_id"], []).append(row)
    return found


def test_of_a_trial_user_the_hidden_domain_keeps_its_first_action_and_its_last_one_is_the_target():
    trial = make_trial(sequences_table(two=TWO), 1, seed=0)
    hidden = trial.hidden["two"]
    shown = "food" if hidden == "kitchen" else "kitchen"
    rows = by_user(trial)["two"]
    assert rows[-1]["item_id"] == f"{hidden}_4"
    assert rows[-2]["item_id"] == f"{shown}_4"
    kept = {row["item_id"] for row in rows[:-2]}
    assert kept == {f"{hidden}_1", *(f"{shown}_{number}" for number in (1, 2, 3))}
    assert [row["position"] for row in rows] == list(range(6))
    times = [row["timestamp"] for row in rows]
    assert times == sorted(times)
    assert (times[-1] - times[-2]).total_seconds() >= 1


def test_a_user_whose_hidden_domain_begins_after_all_others_is_none_of_the_trial():
    late = "food_1 food_2 food_3 kitchen_1 kitchen_2 kitchen_9 food_9"
    with pytest.raises(UserError, match=r"^0 users have 2 training actions .* Nobody can be hidden a domain of\.$"):
        make_trial(sequences_table(late=late), 1, seed=0)


def test_data_of_one_domain_is_told_that_it_is():
    with pytest.raises(UserError, match="All training actions lie in one domain"):
        make_trial(sequences_table(one="food_1 food_2 food_3 food_4 food_5"), 1, seed=0)


def test_everybody_else_keeps_all_training_actions_and_no_other():
    trial = make_trial(sequences_table(two=TWO, one="food_1 food_2 food_3 food_4 food_5"), 1, seed=0)
    assert [row["item_id"] for row in by_user(trial)["one"]] == ["food_1", "food_2", "food_3"]


def test_no_validation_or_test_action_is_read():
    other = TWO.replace("food_9 kitchen_9", "kitchen_7 food_7")
    trials = [make_trial(sequences_table(two=each), 1, seed=0) for each in (TWO, other)]
    assert trials[0] == trials[1]


def test_trial_users_are_drawn_by_the_seed_and_stay_when_others_come():
    users = {f"u{number}": TWO for number in range(20)}
    chosen = set(make_trial(sequences_table(**users), 5, seed=0).hidden)
    assert len(chosen) == 5
    assert len(chosen - set(make_trial(sequences_table(**users, new=TWO), 5, seed=0).hidden)) <= 1
    assert set(make_trial(sequences_table(**users), 5, seed=1).hidden) != chosen


def test_more_users_than_act_in_two_domains_are_refused_with_their_number():
    users = sequences_table(two=TWO, one="food_1 food_2 food_3 food_4 food_5")
    with pytest.raises(UserError, match=r"^1 users have 2 training actions .* a trial of 2 is not possible"):
        make_trial(users, 2, seed=0)
