"""Descriptions of items: what is asked, what of a reply is kept, and the text that is embedded."""

import json

import pyarrow as pa
import pytest

from data_lake.schemas import ITEM_DESCRIPTIONS, ITEM_EMBEDDINGS, ITEMS
from data_lake.tables import check
from pipeline.config import DescribeConfig, DomainConfig
from pipeline.describe_items import describe_items
from pipeline.llm.answers import figures
from pipeline.llm.failures import Failures
from pipeline.llm.generator import Reply
from pipeline.llm.usefulness import Usefulness, without_common
from pipeline.vectors.embed_items import embed_items, with_descriptions
from tests.pipeline.worlds import DOMAINS, Angles, Scripted, rows_of

GOOD = {"attributes": ["calm evenings", "for guests"], "goes_with": ["glass teapot"]}


def items_of(*titles, domain="food"):
    ids = [f"i{number}" for number in range(len(titles))]
    return pa.table([ids, [domain] * len(ids), titles, titles], schema=ITEMS.tables[""])


def described(items, *replies, about=None, **settings):
    """Return ITEM_DESCRIPTIONS by these replies, and the generator that gave them."""
    generator = Scripted(*(Reply(json.dumps(reply)) for reply in replies))
    table = describe_items(items, generator, DescribeConfig(**settings), about or {}, DOMAINS)
    return check(table, ITEM_DESCRIPTIONS), generator


def test_a_prompt_shows_the_title_its_domain_and_the_other_domains():
    about = {"kitchen": DomainConfig(describe="pots and pans")}
    _, generator = described(items_of("Green  Tea"), GOOD, about=about, prompt="$domain: $other_domains\n---\n$title")
    [request] = generator.requests
    assert [message["content"] for message in request.messages] == [
        "food: kitchen (pots and pans), garden",
        '"Green Tea"',
    ]


def test_a_description_is_two_lists_of_phrases():
    table, _ = described(items_of("Green Tea"), GOOD)
    assert rows_of(table, "item_id", "domain", "status", "reason", "attributes", "goes_with") == [
        ("i0", "food", "ok", None, GOOD["attributes"], GOOD["goes_with"])
    ]


def test_an_item_without_a_title_or_a_text_is_not_asked_about_and_says_so():
    table, generator = described(items_of(None, "Green Tea"), GOOD)
    assert rows_of(table, "item_id", "status", "reason", "prompt_hash")[0] == ("i0", "failed", "no_title", "")
    assert len(generator.requests) == 1
    assert figures(table)["failed"] == {"no_title": 1}
    failures = Failures(allowed=0.2)
    failures.add(table)
    assert (failures.asked, failures.reasons.total()) == (1, 0)


def test_a_description_that_repeats_itself_says_nothing_and_is_no_failure():
    said = {**GOOD, "goes_with": GOOD["attributes"]}
    table, _ = described(items_of("Green Tea"), said, said)
    failures = Failures(allowed=0.2)
    failures.add(table)
    assert (failures.asked, failures.reasons.total()) == (1, 0)


def test_an_item_with_a_text_alone_is_asked_about_by_that():
    items = pa.table([["i0"], ["food"], [None], ["loose leaves"]], schema=ITEMS.tables[""])
    _, generator = described(items, GOOD)
    assert generator.asked == ['The item:\n"loose leaves"']


def test_phrases_that_say_nothing_are_left_out_and_counted():
    said = {
        "attributes": ["Tea", "calm evenings", "several short phrases", " ", "green tea"],
        "goes_with": ["Calm evenings.", "glass teapot"],
    }
    prompt = "Write several short phrases.\n---\n$title"
    table, _ = described(items_of("Green Tea, 20 bags"), said, prompt=prompt)
    assert rows_of(table, "attributes", "goes_with") == [(["calm evenings"], ["glass teapot"])]
    assert table["dropped"].to_pylist() == [["copied", "echo", "empty", "copied", "repeated"]]
    assert figures(table)["answers"] == 2


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"attributes": ["calm"]}, "schema"),
        ({**GOOD, "why": ["x"]}, "schema"),
        ({**GOOD, "goes_with": "teapot"}, "schema"),
        ({**GOOD, "goes_with": list("abcdef")}, "schema"),
        ({**GOOD, "goes_with": []}, "empty"),
        ({**GOOD, "goes_with": ["Green tea"]}, "copied"),
        ({**GOOD, "attributes": ["the item"]}, "echo"),
        ({**GOOD, "goes_with": ["Calm evenings"]}, "repeated"),
    ],
)
def test_a_description_with_a_field_that_cannot_be_used_is_asked_for_once_more(said, reason):
    table, generator = described(items_of("Green Tea"), said, GOOD)
    assert rows_of(table, "status", "attributes") == [("ok", GOOD["attributes"])]
    first, second = (request.schema["properties"]["attributes"] for request in generator.requests)
    assert (first["maxItems"], second["maxItems"]) == (5, 2)
    assert (first["items"]["maxLength"], second["items"]["maxLength"]) == (60, 30)
    table, _ = described(items_of("Green Tea"), said, said)
    assert rows_of(table, "status", "reason", "attributes", "goes_with") == [("failed", reason, [], [])]


def test_a_description_that_many_items_got_is_none():
    items = items_of(*(f"Tea {number}" for number in range(8)))
    own = [{**GOOD, "goes_with": [f"teapot {number}"]} for number in range(2)]
    table, _ = described(items, *own, *[GOOD] * 6)
    usefulness = Usefulness()
    usefulness.add(table)
    after = check(without_common(table, usefulness.common), ITEM_DESCRIPTIONS)
    assert after["reason"].to_pylist() == [None] * 2 + ["same"] * 6
    assert after["attributes"].to_pylist() == [GOOD["attributes"]] * 2 + [[]] * 6
    assert after["goes_with"].to_pylist() == [["teapot 0"], ["teapot 1"], *[[]] * 6]


def test_two_items_are_alike_by_the_phrases_that_they_have_in_common():
    table, _ = described(items_of("Tea 1", "Tea 2"), GOOD, {**GOOD, "goes_with": ["sugar bowl"]})
    usefulness = Usefulness()
    usefulness.add(table)
    assert usefulness.alike == 2 / 4


def test_a_description_follows_the_items_text_and_other_items_keep_theirs():
    items = items_of("Green Tea.", None, "Rye Bread")
    descriptions, _ = described(items, GOOD, {"attributes": []}, {"attributes": []})
    encoder = Angles()
    table = check(embed_items(with_descriptions(items, descriptions), encoder, is_described=True), ITEM_EMBEDDINGS)
    assert encoder.texts == ["Green Tea. calm evenings, for guests. Goes with glass teapot", "Rye Bread"]
    assert [vector is None for vector in table["vector"].to_pylist()] == [False, True, False]
    assert set(table["revision"].to_pylist()) == {"1+described"}
