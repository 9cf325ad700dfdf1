"""What is learnt from users of two domains, by hand: relevance, bands, weights, and what is kept from run to run."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from data_lake.schemas import ITEMS, PROBES
from pipeline.augment.noise_filter import (
    LEAST_TO_KEEP,
    RANDOM_ITEMS,
    TEXT_ALONE,
    UNKNOWN,
    Evidence,
    Learnt,
    NoiseFilter,
    Relevance,
    Worth,
    fit_relevance,
    keep_verdicts,
    load_or_learn,
    measure_worth,
    pays,
    unpaying,
    weight_of,
    with_bands,
    with_random_items,
)
from pipeline.augment.truth import PARTS, parts_of
from pipeline.vectors.catalogue import Catalogue
from tests.pipeline.worlds import DictCache

PAIR = ("food", "kitchen")


def test_a_weight_is_what_the_share_surely_exceeds_chance_by():
    assert [weight_of(low, 0.01) for low in (0.0, 0.01, 0.015, 1.0)] == [0, 0, 0.005, 0.99]


def test_bands_are_cut_by_relevance_and_what_is_unfaithful_is_banded_apart():
    answers = pl.DataFrame(
        {
            "relevance": [3.0, 1.5, 1.0, 3.0, None],
            "faithfulness": [1.0, 1.0, 1.0, 0.4, None],
            "faithfulness_threshold": [0.5, 0.5, 0.5, 0.5, None],
        }
    )
    assert with_bands(answers, (2.0, 1.5))["band"].to_list() == [0, 1, 2, 3, None]


def test_relevance_is_the_weighted_sum_of_the_signals_with_counts_as_logarithms():
    signals = pl.DataFrame({"shared": [np.e - 1], "popularity": [np.e**2 - 1], "text": [0.5]})
    assert Relevance((1.0, 10.0, 4.0)).score(signals).tolist() == [23.0]


def probes_of(count, hidden):
    """Probes p0, p1, ... without kitchen, each with the items that `hidden` gives for its number."""
    rows = [
        {
            "user_id": f"p{number}", "item_ids": ["food_1"], "domains": ["food"], "timestamps": [0],
            "splits": ["train"], "real_user_id": f"u{number}", "hidden_domain": "kitchen",
            "hidden_items": hidden(number),
        }
        for number in range(count)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=PROBES.tables[""])


def catalogue_of(count):
    ids = pa.array([f"kitchen_{number}" for number in range(count)])
    return Catalogue(ids, np.full(count, "kitchen"), np.eye(count, dtype=np.float32), np.ones(count, bool), "m", "1")


class ByNumber:
    """Signals in which an item is the more popular the smaller its number."""

    def of(self, pairs):
        number = pl.col("item_id").str.split("_").list.last().cast(pl.Float64)
        return pairs.with_columns(shared=pl.lit(0.0), popularity=100 - number, text=pl.lit(0.5))


def test_relevance_is_fitted_to_the_choices_of_some_users_and_measured_on_others():
    fitted = probes_of(30, lambda number: ["kitchen_0"])
    held_out = probes_of(30, lambda number: ["kitchen_1"])
    found = fit_relevance(fitted, held_out, ByNumber(), catalogue_of(50), "kitchen", seed=0)
    assert found.coefficients[0] == 0
    assert found.coefficients[1] > 0
    assert 0.9 < found.auc < 1  # the item 0 is more popular than what those held out chose
    assert found.text_auc == 0.5


def test_with_few_users_relevance_is_the_cosine_of_the_text():
    few, many = (probes_of(count, lambda number: ["kitchen_0"]) for count in (19, 20))
    assert fit_relevance(few, many, ByNumber(), catalogue_of(50), "kitchen", seed=0) is TEXT_ALONE
    assert fit_relevance(many, few, ByNumber(), catalogue_of(50), "kitchen", seed=0) is TEXT_ALONE
    assert fit_relevance(many, many, ByNumber(), catalogue_of(50), "kitchen", seed=0) is not TEXT_ALONE


def test_users_are_dealt_into_parts_of_a_size_by_seed_and_name():
    names = [f"u{number}" for number in range(300)]
    parts = parts_of(names, seed=0)
    assert parts_of(names[7:9], seed=0) == parts[7:9]
    assert all(80 < parts.count(part) < 120 for part in range(PARTS))
    assert parts_of(names, seed=1) != parts


def items(count):
    ids = [f"kitchen_{number}" for number in range(count)]
    return pa.table([ids, ["kitchen"] * count, ids, ids], schema=ITEMS.tables[""])


def answered(*rows):
    """(user, item, relevance)"""
    schema = {"user_id": pl.String, "item_id": pl.String, "relevance": pl.Float64}
    table = pl.DataFrame(rows, schema, orient="row")
    return table.with_columns(to_domain=pl.lit("kitchen"), faithfulness=1.0, faithfulness_threshold=0.5)


def test_each_band_is_worth_what_its_users_chose():
    # each of 60 users chose kitchen_0, which is the most relevant of three answers, one in each band
    probes = probes_of(60, lambda number: ["kitchen_0"])
    rows = [(f"p{number}", f"kitchen_{item}", 3.0 - item) for number in range(60) for item in range(3)]
    found = measure_worth(answered(*rows), probes, items(100))
    assert found.edges == (3.0, 2.0)
    assert [(each["band"], each["answers"], each["share"], each["weight"]) for each in found.bands] == [
        (0, 60, 1.0, 0.99), (1, 60, 0.0, 0.0), (2, 60, 0.0, 0.0),
    ]  # fmt: skip
    assert pays([found])


def test_a_pair_pays_where_a_band_of_some_part_does_and_does_not_once_enough_users_were_counted():
    nothing, some = {"band": 0, "weight": 0.0}, {"band": 1, "weight": 0.1}
    few, enough, good = (
        Worth((), (nothing,), LEAST_TO_KEEP - 1),
        Worth((), (nothing,), LEAST_TO_KEEP),
        Worth((), (some,), 1),
    )
    assert [pays([few, UNKNOWN]), pays([enough, UNKNOWN]), pays([enough, good])] == [None, False, True]


def test_without_answers_nothing_is_known():
    assert measure_worth(answered(("p0", "kitchen_1", 1.0)).clear(), probes_of(0, list), items(9)) is UNKNOWN


class Found:
    """Finds for each probe the items that it was made with; keeps whom it was asked about."""

    def __init__(self, *item_ids):
        self.item_ids, self.asked = item_ids, []

    def __call__(self, probes):
        users = probes["user_id"].to_pylist()
        self.asked.append(set(users))
        rows = [(user, item_id, 1.0) for user in users for item_id in self.item_ids]
        return answered(*rows).drop("relevance").with_columns(
            from_domain=pl.lit("food"), index=pl.int_range(pl.len(), dtype=pl.UInt32)
        )  # fmt: skip


def learnt(cache, hidden="kitchen_0", answers=("kitchen_0", "kitchen_40"), generator="m", users=300, seed=0):
    """The filter that is learnt from users of whom each chose `hidden`, and what was found for them."""
    found = Found(*answers)
    evidence = Evidence(probes_of(users, lambda number: [hidden]), found, ByNumber(), catalogue_of(50), items(50))
    return load_or_learn(evidence, [PAIR], {"model": generator}, seed, cache), found


def test_no_user_is_judged_by_the_own_choices():
    # those of part 0 chose the item 0, all others the item 40, and everybody got both as answers
    users = [f"u{number}" for number in range(300)]
    parts = dict(zip(users, parts_of(users, seed=0), strict=True))
    found = Found("kitchen_0", "kitchen_40")
    probes = probes_of(300, lambda number: ["kitchen_0" if parts[f"u{number}"] == 0 else "kitchen_40"])
    evidence = Evidence(probes, found, ByNumber(), catalogue_of(50), items(50))
    judge = load_or_learn(evidence, [PAIR], {"model": "m"}, 0, DictCache("fitted"))
    of_part_0 = next(user for user in users if parts[user] == 0)
    answers = answered((f"p{of_part_0[1:]}", "kitchen_0", 0), (f"p{of_part_0[1:]}", "kitchen_40", 0)).drop("relevance")
    assert judge.judge(answers.with_columns(from_domain=pl.lit("food")), ByNumber())["weight"].to_list() == [0, 0.98]
    assert all(len({parts[f"u{name[1:]}"] for name in asked}) == 1 for asked in found.asked)


def test_what_is_learnt_is_kept_when_other_choices_come():
    cache = DictCache("fitted")
    first, asked = learnt(cache)
    assert len(asked.asked) == PARTS
    again, asked_again = learnt(cache, hidden="kitchen_9")
    assert again.figures() == first.figures()
    assert asked_again.asked == []


def test_another_generator_is_counted_anew_and_another_seed_learnt_anew():
    cache = DictCache("fitted")
    first, _ = learnt(cache)
    other, asked = learnt(cache, answers=("kitchen_9",), generator="n")
    assert len(asked.asked) == PARTS
    assert other.figures() != first.figures()
    assert len(learnt(cache, seed=1)[1].asked) == PARTS


def test_what_was_counted_on_few_users_is_counted_again():
    cache = DictCache("fitted")
    learnt(cache, users=30)
    assert len(learnt(cache, users=30)[1].asked) == PARTS


def test_without_probes_nothing_is_worth_inserting_and_it_says_so():
    judge, _ = learnt(DictCache("fitted"), users=0)
    assert judge.complaints() == [
        "the answers from food to kitchen could not be measured on 50 users of both domains, and on fewer no kind of "
        "them beat chance; none is inserted."
    ]


def test_a_pair_that_does_not_pay_is_said_so():
    part = Learnt({}, {PAIR: Worth((), ({"band": 0, "weight": 0.0},), LEAST_TO_KEEP)})
    judge = NoiseFilter([part], {}, seed=0)
    assert judge.complaints() == [
        "the answers from food to kitchen do not pay: users of both domains chose none of their kinds more often than "
        "random items; none is inserted."
    ]
    assert judge.figures()["noise_filter"]["part 0"]["worth"] == {
        "food to kitchen": {"band 0": {"band": 0, "weight": 0.0}}
    }


def test_pairs_that_do_not_pay_are_known_the_next_night_to_the_same_generator():
    cache, food = DictCache("fitted"), ("kitchen", "food")
    useless, unknown = (Worth((), ({"band": 0, "weight": 0.0},), users) for users in (LEAST_TO_KEEP, 1))
    judge = NoiseFilter([Learnt({}, {PAIR: useless, food: unknown})], {}, seed=0)
    keep_verdicts(judge, {"model": "m"}, 0, cache)
    assert unpaying([PAIR, food], {"model": "m"}, 0, cache) == [PAIR]
    assert unpaying([PAIR, food], {"model": "other"}, 0, cache) == []
    assert unpaying([PAIR, food], {"model": "m"}, 1, cache) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_random_items_beside_real_choices_are_none_of_the_users_own(seed):
    truth = pl.DataFrame({"user_id": ["p"] * 2, "domain": "kitchen", "item_id": ["kitchen_0", "kitchen_1"]})
    made = with_random_items(truth, catalogue_of(4), "kitchen", seed)
    assert made.filter(pl.col("chosen") == 1)["item_id"].to_list() == ["kitchen_0", "kitchen_1"]
    random = made.filter(pl.col("chosen") == 0)["item_id"]
    assert set(random) <= {"kitchen_2", "kitchen_3"}
    assert len(random) <= 2 * RANDOM_ITEMS
