import numpy as np
import pyarrow as pa
import pytest

from pipeline.augment.generate_items import generate_items
from pipeline.augment.ground import Grounder, thresholds_of
from pipeline.augment.represent import represent
from pipeline.config import EnrichConfig
from pipeline.vectors.catalogue import Catalogue
from tests.pipeline.worlds import (
    Angles,
    Answering,
    embedded,
    filter_of,
    grounded_by,
    items_table,
    known_of,
    rows_of,
    rows_to_ask,
    sequences_table,
    worth,
)


def test_answers_are_kept_or_dropped_for_the_first_reason_that_applies():
    # shown: food_0, food_2; the train action kitchen_12 is withheld, so it may be found. Relevance is the text's cosine
    # with these; the bands are cut at the cosine of 50 degrees, and the less relevant and the unfaithful are worthless.
    cut = float(np.cos(np.radians(50)))
    table, *_, grounder = grounded_by(
        ["x 1", "x 310", "x 119", "x 10", "x 10", "x 31"], faithful_quantile=0.3, food_kitchen=worth(0.2, edges=(cut,))
    )
    # nearest neighbours in kitchen: 10 2 2 18 30 60 60 degrees; the threshold lies between 60 and 30
    assert rows_of(table, "answer", "item_id", "band", "reason") == [
        ("x 1", "kitchen_0", 0, None),
        ("x 310", "kitchen_0", 3, "unproven"),
        ("x 119", "kitchen_120", 1, "unproven"),
        ("x 10", "kitchen_10", 0, None),
        ("x 31", "kitchen_30", 0, "over_budget"),
    ]
    assert grounder.counts(table) == {"kept": 2, "dropped": {"over_budget": 1, "unproven": 2}}
    cosines = np.cos(np.radians([60, 60, 30, 18, 10, 2, 2]))
    assert table["faithfulness_threshold"][0].as_py() == pytest.approx(np.quantile(cosines, 0.3), abs=1e-5)


def test_each_answer_carries_what_is_known_of_its_item_and_its_weight():
    table, *_ = grounded_by(["x 10"], food_kitchen=worth(0.25))
    [row] = table.to_pylist()
    assert row["text"] == row["relevance"] == pytest.approx(np.cos(np.radians(8)), abs=1e-5)  # from food_2
    assert (row["shared"], row["popularity"], row["band"], row["weight"]) == (0, 0, 0, 0.25)


def test_of_two_answers_that_mean_one_item_the_closer_is_kept():
    table, *_ = grounded_by(["x 6", "x 9"])
    assert rows_of(table, "item_id", "reason") == [("kitchen_10", "duplicate"), ("kitchen_10", None)]


def test_the_budget_goes_to_the_answers_of_the_greatest_weight_then_relevance():
    cut = float(np.cos(np.radians(20)))
    table, *_ = grounded_by(["x 10", "x 30", "x 60"], food_kitchen=worth(0.1, 0.2, edges=(cut,)))
    assert rows_of(table, "item_id", "reason") == [
        ("kitchen_10", "over_budget"), ("kitchen_30", None), ("kitchen_60", None),
    ]  # fmt: skip


def grounder_of(items, sequences, answers):
    """The grounder of a small world, and what was generated: the same answers for everybody."""
    cfg, catalogue = EnrichConfig(noise_filter=False), embedded(items)
    representatives = represent(sequences, catalogue, cfg, ("food", "kitchen"))
    generator = Answering(lambda question: answers)
    generated = generate_items(rows_to_ask(representatives, cfg), items, generator, cfg, {})
    return Grounder(known_of(items, sequences, catalogue), cfg, ("food", "kitchen")), generated


def test_of_items_nearly_as_near_the_one_that_those_who_share_items_chose_is_meant():
    items = items_table(food=[0], kitchen=[10, 12, 90])
    sequences = sequences_table(
        u="food_0 food_0 food_0 food_0 food_0", other="food_0 kitchen_12 kitchen_90 food_0 food_0"
    )
    grounder, generated = grounder_of(items, sequences, ["x 10"])
    table = grounder.find(sequences, generated, Angles())
    assert table["item_id"].to_list()[0] == "kitchen_12"


def test_without_the_noise_filter_only_duplicates_and_the_budget_count():
    table, *_ = grounded_by(["x 310", "x 119"], noise_filter=False)
    assert table["kept"].to_pylist() == [True, True]


def test_an_item_of_the_shown_part_is_never_grounded_to():
    items = items_table(food=[0], kitchen=[0, 40])
    sequences = sequences_table(
        u="food_0 food_0 food_0 kitchen_0 food_0 food_0 food_0", v="food_0 food_0 food_0 food_0 food_0"
    )
    grounder, generated = grounder_of(items, sequences, ["x 1"])

    def found(sequences):
        table = grounder.find(sequences, generated, Angles())
        return list(table.select("user_id", "item_id").iter_rows())

    assert found(sequences) == [("u", "kitchen_40"), ("v", "kitchen_0")]
    assert found(sequences.slice(1)) == [("v", "kitchen_0")]
    assert found(sequences.slice(0, 0)) == []


def test_a_new_item_takes_the_place_of_one_sampled_item_at_most():
    def sampled(count, seed=0):
        vectors = np.random.default_rng(1).standard_normal((count, 4)).astype(np.float32)
        ids = pa.array([f"f{number}" for number in reversed(range(count))])  # a new item comes first: all rows move
        catalogue = Catalogue(ids, np.full(count, "food"), vectors, np.ones(count, bool), "m", "r")
        sample = thresholds_of(catalogue, EnrichConfig(sample=100, seed=seed), "food").sample
        return set(catalogue.item_ids.take(pa.array(sample)).to_pylist())

    before = sampled(400)
    assert len(before) == 100
    for count in (401, 402, 403):
        after = sampled(count)
        assert len(before - after) == len(after - before) <= 1
        before = after
    assert len(sampled(400, seed=1) & sampled(400)) < 50


def test_an_index_grounds_to_the_same_items_and_tells_its_recall():
    answers = ["x 11", "x 1", "x 310", "x 119", "x 10", "x 31", "x 2", "x 50"]
    exact, *_, without_index = grounded_by(answers, budget=9)
    by_index, *_, grounder = grounded_by(answers, budget=9, exact_up_to=1)
    assert by_index == exact
    counts = without_index.counts(exact)
    assert grounder.counts(by_index) == {**counts, "neighbours": {"checked": 8, "found": 8}}
    assert grounder.counts(by_index) == {**counts, "neighbours": {"checked": 0, "found": 0}}
    assert counts.keys() == {"kept", "dropped"}


def test_where_the_user_holds_all_there_is_no_neighbour():
    items = items_table(food=[0], kitchen=[0])
    sequences = sequences_table(u="food_0 food_0 food_0 kitchen_0 food_0 food_0 food_0")
    cfg, catalogue = EnrichConfig(), embedded(items)
    representatives = represent(sequences, catalogue, cfg, ("food", "kitchen"))
    rows = rows_to_ask(representatives, cfg)
    generated = generate_items(rows, items, Answering(), cfg, {})
    known = known_of(items, sequences, catalogue)
    grounder = Grounder(known, cfg, ("food", "kitchen"))
    table = grounder.ground(sequences, known.answered(generated, representatives), Angles(), filter_of())
    columns = ("item_id", "faithfulness", "relevance", "band", "weight", "kept", "reason")
    assert rows_of(table, *columns) == [(None, None, None, None, None, False, "no_neighbour")]
