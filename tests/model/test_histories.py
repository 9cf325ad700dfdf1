"""Histories that are given now: which users, which actions, in which order."""

from itertools import pairwise

import pyarrow as pa

from model.data.histories import Histories, with_histories
from tests.model.worlds import world

ITEMS = {"food": "f1 f2 f3 f4", "kitchen": "k1 k2"}
DATA = world({"b": "f1@1 *k1@2 f2@2:validation f3@5:test", "a": "f4@1"}, ITEMS)


def given(*actions: str) -> pa.Table:
    """Return a table of actions such as "u f1 7", of which the time may be missing in all."""
    rows = [action.split() for action in actions]
    table = pa.table({"user_id": pa.array([row[0] for row in rows], pa.string()), "item_id": [row[1] for row in rows]})
    return table.append_column("time", pa.array([int(row[2]) for row in rows])) if len(rows[0]) > 2 else table


def read(found: Histories) -> dict[str, str]:
    """Return what is read of each user, as in `world`."""
    data, names = found.data, found.data.item_ids.to_pylist()
    words = [("*" if fake else "") + names[item] for item, fake in zip(data.items, data.synthetic, strict=True)]
    spans = pairwise(data.offsets.tolist())
    return {user: " ".join(words[a:b]) for user, (a, b) in zip(data.user_ids.to_pylist(), spans, strict=True)}


def test_a_new_users_actions_stand_by_time_and_at_one_time_as_given():
    assert read(with_histories(DATA, given("n f2 9", "n f1 3", "m k1 1", "n k2 9"))) == {"n": "f1 f2 k2", "m": "k1"}


def test_without_times_actions_stand_as_given():
    assert read(with_histories(DATA, given("n f2", "n f1", "n f2"))) == {"n": "f2 f1 f2"}


def test_a_known_users_actions_come_after_the_stored_ones_and_inserted_items_stay():
    assert read(with_histories(DATA, given("b f4 9", "b k2 8"))) == {"b": "f1 *k1 f2 f3 k2 f4"}
    assert read(with_histories(DATA, given("b f1"))) == {"b": "f1 *k1 f2 f3 f1"}


def test_an_action_that_is_stored_or_was_given_before_is_read_once():
    found = with_histories(DATA, given("b f1 1", "b f1 2", "b k1 2", "b f3 5", "n f1 1", "n f1 1"))
    assert read(found) == {"b": "f1 *k1 f2 f1 k1 f3", "n": "f1"}  # k1 was inserted, and now really chosen
    assert (found.actions, found.already_stored) == (6, 3)


def test_actions_on_unknown_items_are_counted_and_their_user_stays():
    found = with_histories(DATA, given("n x", "n f1", "m x", "m y"))
    assert read(found) == {"n": "f1", "m": ""}
    assert (found.actions, found.unknown_actions, found.unknown_items.to_pylist()) == (4, 3, ["x", "y"])


def test_only_the_users_that_are_named_are_served_and_stored_ones_need_no_action():
    found = with_histories(DATA, given("n f1", "m zz"), users=pa.array(["a", "n", "nobody", "a"]))
    assert read(found) == {"a": "f4", "n": "f1", "nobody": ""}
    assert (found.actions, found.unknown_actions) == (1, 0)


def test_every_action_is_context_and_nothing_of_the_training_set_changes():
    found = with_histories(DATA, given("b f4"))
    assert set(found.data.splits) == {3}
    assert found.data.profiles == {}
    assert read(with_histories(DATA, given("zz k1"))) == {"zz": "k1"}
