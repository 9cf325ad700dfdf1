import numpy as np
import pytest

from data_lake.schemas import TEST, VALIDATION
from model.data.training_set import TrainingSet
from model.evaluation import candidates
from model.evaluation.candidates import blocks, find_targets
from tests.model.worlds import world

FOOD = {"food": " ".join(f"f{n}" for n in range(40)), "kitchen": "k0 k1 k2"}


def drawn(data: TrainingSet, split: str, n: int, batch: int = 512) -> dict[str, list[str]]:
    """The negatives of each user with a target in the split, in drawing order."""
    found = {}
    targets = find_targets(data, split)
    for block in blocks(data, targets, ["full", f"sampled-{n}"], batch):
        for user, columns, unseen in zip(block.users, block.sampled, block.unseen, strict=True):
            items = block.columns[columns[: min(n, unseen)]]
            found[data.user_ids[int(user)].as_py()] = [data.item_ids[int(item)].as_py() for item in items]
    return found


def seen(data: TrainingSet, split: str) -> dict[str, set[str]]:
    """The history of each target inside its domain, the target left out."""
    found: dict[str, set[str]] = {}
    for block in blocks(data, find_targets(data, split), ["full"], 512):
        for row, user in enumerate(block.users):
            items = block.columns[block.seen_column[block.seen_row == row]]
            found[data.user_ids[int(user)].as_py()] = {data.item_ids[int(item)].as_py() for item in items}
    return found


def test_history_is_the_real_actions_of_the_domain_before_the_target():
    data = world({"u": "f1 k1 *f2 f3 f1 f4:validation f5:test"}, FOOD)
    assert seen(data, VALIDATION) == {"u": {"f1", "f3"}}
    assert seen(data, TEST) == {"u": {"f1", "f3", "f4"}}


def test_context_actions_of_the_time_split_are_history_of_a_later_target():
    data = world({"u": "f1 f2:validation f3:context k1:context f4:test f5:context"}, FOOD)
    assert seen(data, VALIDATION) == {"u": {"f1"}}
    assert seen(data, TEST) == {"u": {"f1", "f2", "f3"}}


def test_the_history_of_a_query_is_what_stands_before_its_target():
    data = world({"a": "f1 f2", "v": "f3:context k1:context f4:validation", "t": "k2:context f5:context f6:test"}, FOOD)
    assert seen(data, VALIDATION) == {"v": {"f3"}}
    assert seen(data, TEST) == {"t": {"f5"}}
    assert len(drawn(data, VALIDATION, 999)["v"]) == 38
    assert not {"f3", "f4"} & set(drawn(data, VALIDATION, 999)["v"])


def test_targets_are_the_real_positions_of_the_split():
    data = world({"a": "f1 f2", "b": "f1 *f2:test *k1 k2:test", "c": "f3 f4:validation"}, FOOD)
    test = find_targets(data, TEST)
    assert (test.users.tolist(), test.prefix_length.tolist(), test.positions.tolist()) == ([1], [3], [5])
    assert (test.items.tolist(), test.domains.tolist()) == ([43], [1])
    assert find_targets(data, VALIDATION).users.tolist() == [2]


def test_a_target_that_was_bought_before_is_still_no_negative_of_itself():
    data = world({"u": "f1 f2 f1:test"}, {"food": "f1 f2 f3 f4"})
    (block,) = blocks(data, find_targets(data, TEST), ["full", "sampled-9"], 512)
    assert block.seen_column.tolist() == [1]
    assert block.unseen.tolist() == [2]
    assert sorted(drawn(data, TEST, 9)["u"]) == ["f3", "f4"]


def test_negatives_are_distinct_unseen_items_of_the_targets_domain():
    data = world({f"u{n}": f"f{n} *f9 k1 f{n + 1} f{n + 2}:test" for n in range(20)}, FOOD)
    for n, items in enumerate(drawn(data, TEST, 30).values()):
        assert len(items) == len(set(items)) == 30
        assert not {f"f{n}", f"f{n + 1}", f"f{n + 2}"} & set(items)
        assert not {"k0", "k1", "k2"} & set(items)


def test_where_fewer_items_remain_all_are_taken():
    data = world({"u": "k0 k1:validation k2:test"}, FOOD)
    assert sorted(drawn(data, VALIDATION, 100)["u"]) == ["k2"]  # the later test item may be drawn
    assert drawn(data, TEST, 100) == {"u": []}


def test_a_smaller_draw_is_the_start_of_a_larger_one():
    data = world({"u": "f1 f2:test"}, FOOD)
    assert drawn(data, TEST, 5)["u"] == drawn(data, TEST, 20)["u"][:5]


def test_other_users_other_items_and_the_batch_change_nobodys_negatives():
    users = {f"u{n}": f"f{n} f{n + 1} f{n + 2}:test" for n in range(10)}
    whole = drawn(world(users, FOOD), TEST, 8)
    assert drawn(world(users, FOOD), TEST, 8, batch=3) == whole
    without = {user: text for user, text in users.items() if user != "u0"}
    assert drawn(world(without, FOOD), TEST, 8) == {user: whole[user] for user in without}
    unseen = sorted(set(whole["u5"]) - {f"f{n}" for n in range(12)})[0]
    fewer = {"food": " ".join(item for item in FOOD["food"].split() if item != unseen)}
    shrunk = drawn(world(users, fewer), TEST, 8)
    for user in users:
        assert [item for item in whole[user] if item != unseen] == shrunk[user][: 8 - (unseen in whole[user])]


def test_seed_and_split_each_make_another_draw():
    users = {"u": "f1 f2:validation f3:test"}
    assert drawn(world(users, FOOD), TEST, 8)["u"] != drawn(world(users, FOOD, seed=8), TEST, 8)["u"]
    assert drawn(world(users, FOOD), TEST, 8)["u"] != drawn(world(users, FOOD), VALIDATION, 8)["u"]


def test_the_draw_is_uniform():
    data = world({f"u{n}": "f0 f1:test" for n in range(3000)}, {"food": " ".join(f"f{n}" for n in range(12))})
    counts = np.zeros(12)
    for block in blocks(data, find_targets(data, TEST), ["sampled-3"], 512):
        counts += np.bincount(block.sampled.ravel(), minlength=12)
    assert counts[:2].tolist() == [0, 0]
    assert counts.sum() == 9000
    assert ((counts[2:] - 900) ** 2 / 900).sum() < 27.9  # chi squared of 9 degrees of freedom, p = 0.001


def test_the_hashes_are_cut_into_pieces_without_a_trace(monkeypatch: pytest.MonkeyPatch):
    data = world({f"u{n}": f"f{n} f{n + 1} f{n + 2}:test" for n in range(10)}, FOOD)
    whole = drawn(data, TEST, 8)
    monkeypatch.setattr(candidates, "HASHES_AT_ONCE", 90)
    monkeypatch.setattr(candidates, "SCORES_AT_ONCE", 200)
    assert drawn(data, TEST, 8) == whole


def test_a_sample_of_users_is_the_same_in_both_splits_and_keeps_to_users_with_a_target():
    users = {f"u{n}": "f1 f2 f3:validation f4:test" if n % 2 else "f1 f2" for n in range(40)}
    data = world(users, FOOD)
    some = find_targets(data, TEST, limit=5).users.tolist()
    assert len(some) == 5
    assert all(user % 2 for user in some)
    assert find_targets(data, VALIDATION, limit=5).users.tolist() == some
    assert set(some) < set(find_targets(data, TEST, limit=9).users.tolist())
    assert len(find_targets(data, TEST, limit=1000)) == 20


def test_splitmix_gives_its_published_first_number():
    start = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)  # state of seed 0 after its first step
    assert candidates.mix(start)[0] == 0xE220A8397B1DCDAF
