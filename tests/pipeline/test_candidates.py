from pipeline.augment.candidates import Candidates
from tests.pipeline.worlds import items_question

TITLES = {f"k{number}": f"pot {number}" for number in range(9)} | {"twin": "pot 0"}


def source(*item_ids):
    def items(questions):
        return [list(item_ids[: question.answers]) for question in questions]

    return items


def test_candidates_are_taken_from_the_sources_in_turns_until_there_are_enough():
    drawn = Candidates([source("k1", "k2", "k3"), source("k4"), source("k2", "k5", "k6")], TITLES, 4, seed=0)
    [found] = drawn.of([items_question()])
    assert sorted(found) == ["k1", "k2", "k4", "k5"]


def test_what_was_shown_what_has_no_title_and_a_second_item_of_one_title_are_no_candidates():
    drawn = Candidates([source("k0", "twin", "untitled", "food_0")], TITLES | {"food_0": "rice"}, 9, seed=0)
    assert drawn.of([items_question(item_ids=["food_0"])]) == [["k0"]]


def test_the_order_is_told_by_seed_and_user_and_not_by_the_source():
    def order(user, seed=0, ids=tuple(TITLES)[:9]):
        return Candidates([source(*ids)], TITLES, 9, seed).of([items_question(user_id=user)])[0]

    assert order("u") == order("u")
    assert order("u") != order("v")
    assert order("u") != order("u", seed=1)
    assert sorted(order("u")) == sorted(TITLES)[:9]
