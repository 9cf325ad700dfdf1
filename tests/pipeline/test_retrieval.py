import json

import numpy as np
import pyarrow as pa
import pytest

import pipeline.llm.retrieval as retrieval_module
from data_lake.schemas import ITEM_EMBEDDINGS
from pipeline.llm.generator import DomainProfileQuestion, DomainSummary, Request, UserProfileQuestion
from pipeline.llm.prompts import items_schema, profile_schema
from pipeline.llm.retrieval import Retrieval, nearest_rows
from tests.pipeline.worlds import items_question

# Food lies on the axes; each kitchen item leans to one of them. k4 has no text, k5 is called as k1 is.
ITEMS = {
    "f1": ("food", "Basmati rice", [1, 0, 0]),
    "f2": ("food", "Green tea", [0, 1, 0]),
    "k1": ("kitchen", "Rice cooker", [0.8, 0.6, 0]),
    "k2": ("kitchen", "Rice bowl", [0.96, 0, 0.28]),
    "k3": ("kitchen", "Tea pot", [0, 0.96, 0.28]),
    "k4": ("kitchen", None, None),
    "k5": ("kitchen", "Rice cooker", [0.8, 0, 0.6]),
}


def retrieval_of(**settings):
    domains, titles, vectors = zip(*ITEMS.values(), strict=True)
    items = pa.table({"item_id": list(ITEMS), "domain": domains, "title": titles, "text": titles})
    signed = {"model": ["m"] * len(ITEMS), "revision": ["r"] * len(ITEMS)}
    vector = pa.array(vectors, pa.list_(pa.float32(), 3))
    embeddings = pa.table({"item_id": list(ITEMS), "domain": domains, "vector": vector, **signed})
    generator = Retrieval(**settings)
    generator.read({"items": [items], "item_embeddings": [embeddings.select(ITEM_EMBEDDINGS.tables[""].names)]})
    return generator


@pytest.fixture
def retrieval():
    return retrieval_of()


def items_request(item_ids, answers, characters=120):
    return Request(items_question(item_ids, answers), (), items_schema(answers, characters), 100)


def profile_request(groups, evidence=5, inferred=False, words=30):
    question = DomainProfileQuestion("u", "food", tuple(map(tuple, groups)), evidence, inferred, words)
    return Request(question, (), profile_schema(words), 100)


def answer(retrieval, request):
    (reply,) = retrieval([request])
    assert reply.error is None
    ((_, value),) = json.loads(reply.text).items()
    return value


def test_one_representative_gets_its_neighbours_nearest_first_and_no_title_twice(retrieval):
    assert answer(retrieval, items_request(["f1"], 5)) == ["Rice bowl", "Rice cooker", "Tea pot"]


def test_representatives_take_turns_and_skip_what_was_taken(retrieval):
    # f1: bowl .96, cooker .8, pot 0; f2: pot .96, cooker .6, bowl 0
    assert answer(retrieval, items_request(["f2", "f1"], 2)) == ["Tea pot", "Rice bowl"]
    assert answer(retrieval, items_request(["f2", "f1"], 3)) == ["Tea pot", "Rice bowl", "Rice cooker"]


def test_an_answer_does_not_depend_on_who_asks_beside(retrieval):
    requests = [items_request(["f1"], 1), items_request(["f2", "f1"], 3), items_request(["f2"], 2)]
    together = retrieval(requests)
    assert together == [retrieval([request])[0] for request in requests]
    assert [len(json.loads(reply.text)["items"]) for reply in together] == [1, 3, 2]


def test_the_nearest_of_an_item_are_looked_for_once(retrieval, monkeypatch):
    looked_for = []

    def counted(queries, vectors, k):
        looked_for.append(len(queries))
        return nearest_rows(queries, vectors, k)

    monkeypatch.setattr(retrieval_module, "nearest_rows", counted)
    for item_ids in (["f1"], ["f2", "f1"], ["f1"]):
        retrieval([items_request(item_ids, 2)])
    assert looked_for == [1, 1, 0]


def test_answers_keep_the_length_that_the_schema_allows(retrieval):
    assert answer(retrieval, items_request(["f1"], 3, characters=4)) == ["Rice", "Tea"]


def test_a_user_without_a_representative_that_has_a_text_fails_with_a_reason(retrieval):
    (reply,) = retrieval([items_request(["k4", "unknown"], 3)])
    assert (reply.text, reply.error) == (None, "no representative item has a text")


def test_neighbours_are_the_same_in_one_block_and_in_many(monkeypatch):
    rng = np.random.default_rng(0)
    queries, vectors = rng.normal(size=(9, 4)).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :6]
    assert np.array_equal(nearest_rows(queries, vectors, 6), exact)
    monkeypatch.setattr(retrieval_module, "SCORES_PER_BLOCK", 40)  # two queries a block
    assert np.array_equal(nearest_rows(queries, vectors, 6), exact)


def test_equal_scores_go_to_the_lower_row():
    vectors = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], dtype=np.float32)
    assert nearest_rows(np.array([[1, 0]], dtype=np.float32), vectors, 4).tolist() == [[1, 2, 3, 0]]


def test_a_domain_profile_names_the_largest_groups_first(retrieval):
    groups = [["Green tea"], ["Basmati rice", "Jasmine rice", "Brown rice"], []]
    assert answer(retrieval, profile_request(groups=groups)) == ("food (5 actions): mostly Basmati rice; Green tea.")
    assert answer(retrieval, profile_request(groups=groups, words=6)) == ("food (5 actions): mostly Basmati rice.")


def test_a_profile_says_when_it_is_inferred_or_when_nothing_is_known(retrieval):
    inferred = profile_request(groups=[["Green tea"]], evidence=0, inferred=True)
    assert answer(retrieval, inferred) == "food (inferred, no action yet): mostly Green tea."
    assert answer(retrieval, profile_request(groups=[], evidence=0)) == "food: nothing is known."


def test_a_user_profile_begins_with_the_best_known_domain_and_drops_what_is_inferred(retrieval):
    summaries = (
        DomainSummary("food", "Likes tea.", 2),
        DomainSummary("games", "Perhaps cards.", 0),
        DomainSummary("kitchen", "Buys pots.", 9),
    )
    request = Request(UserProfileQuestion(summaries), (), profile_schema(20), 100)
    assert answer(retrieval, request) == "Buys pots. Likes tea."
    only = Request(UserProfileQuestion(summaries[1:2]), (), profile_schema(1), 100)
    assert answer(retrieval, only) == "Perhaps car…"


def test_retrieval_says_that_it_is_no_language_model(retrieval):
    assert retrieval.identity == {"model": "retrieval", "embedding": "m", "revision": "r"}


def test_an_index_of_many_titles_gives_the_same_answers_and_tells_its_recall_once(retrieval):
    by_index = retrieval_of(exact_up_to=2)  # kitchen has three titles
    requests = [items_request(["f1"], 3), items_request(["f2"], 3)]
    assert by_index(requests) == retrieval(requests)
    assert by_index.counts() == {"neighbours": {"checked": 2, "found": 2}}
    assert by_index.counts() == {"neighbours": {"checked": 0, "found": 0}}
    assert retrieval.counts() == {}
