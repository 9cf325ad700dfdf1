"""Answers by what users who share items chose: exact answers on small histories."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from data_lake.progress import Work
from data_lake.schemas import ITEMS, PROBES, SEQUENCES
from pipeline.llm import cooccurrence
from pipeline.llm.cooccurrence import Cooccurrence
from pipeline.llm.generator import DomainProfileQuestion, ItemsQuestion, Request
from pipeline.llm.prompts import items_schema, profile_schema

NO_PROBES = PROBES.tables[""].empty_table()
TEA, RYE, PAN, WOK, JAR, LID = "food_tea", "food_rye", "kitchen_pan", "kitchen_wok", "kitchen_jar", "kitchen_lid"


def sequences(**users):
    """Histories such as "1:food_tea 2:kitchen_pan" (time: item), all of them training."""
    rows = []
    for user, text in users.items():
        pairs = [pair.split(":") for pair in text.split()]
        rows.append({
            "user_id": user,
            "item_ids": [item for _, item in pairs],
            "domains": [item.split("_")[0] for _, item in pairs],
            "timestamps": [datetime.fromtimestamp(86_400 * int(day), UTC) for day, _ in pairs],
            "splits": ["train"] * len(pairs),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SEQUENCES.tables[""])


def catalogue(*untitled):
    ids = [TEA, RYE, PAN, WOK, JAR, LID]
    titles = [None if item in untitled else item.split("_")[1] for item in ids]
    return pa.table([ids, [item.split("_")[0] for item in ids], titles, titles], schema=ITEMS.tables[""])


def answers(
    histories,
    user="u",
    domain="kitchen",
    count=3,
    items=None,
    prompt_share=0.75,
    probes=NO_PROBES,
):
    generator = Cooccurrence(prompt_share)
    generator.read({"items": [items or catalogue()], "sequences": [histories], "probes": [probes]})
    question = ItemsQuestion(user, "food", domain, (TEA,), ("tea",), count)
    [reply] = generator([Request(question, (), items_schema(count), 10)])
    texts = json.loads(reply.text)["items"] if reply.text else []
    assert len(texts) == len(reply.item_ids)
    return list(reply.item_ids)


def test_items_of_users_who_share_more_come_first():
    histories = sequences(
        u="9:food_tea 9:food_rye 9:food_rye 10:food_tea",  # prompts show the first three: tea and rye
        both="1:food_tea 2:food_rye 3:kitchen_wok",
        one="1:food_tea 2:kitchen_pan",
        none="1:kitchen_jar",
    )
    assert answers(histories, count=2) == [WOK, PAN]


@pytest.mark.parametrize("pairs", [1, 3, 100])
def test_how_many_items_of_near_users_are_looked_at_together_changes_no_answer(monkeypatch, pairs):
    monkeypatch.setattr(cooccurrence, "PAIRS_AT_ONCE", pairs)
    histories = sequences(
        u="9:food_tea 9:food_tea", v="9:food_rye 9:food_rye", w="9:food_tea 9:food_tea",
        a="1:food_tea 2:kitchen_pan 3:kitchen_wok", b="1:food_tea 2:kitchen_pan", c="1:food_rye 2:kitchen_jar",
    )  # fmt: skip
    generator = Cooccurrence(0.75)
    generator.read({"items": [catalogue()], "sequences": [histories], "probes": [NO_PROBES]})
    questions = [ItemsQuestion(user, "food", "kitchen", (), (), 1) for user in "uvw"]
    replies = generator([Request(question, (), items_schema(1), 10) for question in questions])
    assert [reply.item_ids for reply in replies] == [(PAN,), (JAR,), (PAN,)]


def test_histories_in_parts_are_those_of_one_table():
    histories = sequences(u="9:food_tea 9:food_tea", a="1:food_tea 2:kitchen_pan", b="1:food_tea 2:kitchen_wok")
    histories = pa.concat_tables([histories, sequences(c="1:food_tea 2:kitchen_wok")])
    parts = [histories.slice(0, 2), histories.slice(2)]
    generator = Cooccurrence(0.75)
    generator.read({"items": [catalogue()], "sequences": parts, "probes": [NO_PROBES]})
    [reply] = generator([Request(ItemsQuestion("u", "food", "kitchen", (), (), 2), (), items_schema(2), 10)])
    assert list(reply.item_ids) == answers(histories, count=2) == [WOK, PAN]


def test_progress_moves_with_every_block_of_users(monkeypatch):
    moves = []
    monkeypatch.setattr(cooccurrence, "USERS_AT_ONCE", 2)
    monkeypatch.setattr(Work, "advance", lambda work, n=1: moves.append((work.what, work.total, n)))
    histories = sequences(u="9:food_tea", v="9:food_tea", w="1:food_tea 2:kitchen_pan")
    generator = Cooccurrence(0.75)
    generator.read({"items": [catalogue()], "sequences": [histories], "probes": [NO_PROBES]})
    questions = [ItemsQuestion(user, "food", "kitchen", (TEA,), ("tea",), 1) for user in "uvw"]
    generator([Request(question, (), items_schema(1), 10) for question in questions])
    assert moves == [("cooccurrence", 3, 2), ("cooccurrence", 3, 1)]


def test_what_is_popular_fills_up_where_too_few_share_an_item():
    histories = sequences(
        u="9:food_tea 9:food_tea 9:food_tea 10:food_tea", one="1:food_tea 2:kitchen_pan",
        a="1:kitchen_jar 8:kitchen_lid", b="8:kitchen_lid",
    )  # fmt: skip
    assert answers(histories) == [PAN, LID, JAR]


def test_nothing_after_the_prompt_is_known():
    histories = sequences(
        u="5:food_tea 5:food_tea 5:food_tea 9:kitchen_wok", before="1:food_tea 2:kitchen_pan",
        later="1:food_tea 6:kitchen_jar", held_later="6:food_tea 1:kitchen_lid",
    )  # fmt: skip
    assert answers(histories)[:1] == [PAN]
    assert JAR not in answers(histories)
    assert answers(histories)[1:] == [LID]  # known to be popular, but not by a shared item


def test_a_users_own_actions_are_left_out():
    histories = sequences(u="1:food_tea 2:food_tea 3:food_tea 9:kitchen_wok", other="1:food_tea 2:kitchen_pan")
    assert answers(histories) == [PAN]


def test_what_prompts_show_is_no_answer_and_neither_is_an_item_without_a_title():
    histories = sequences(
        u="1:food_tea 2:kitchen_pan 3:food_tea 9:food_tea", other="1:food_tea 1:kitchen_pan 1:kitchen_jar 1:kitchen_lid"
    )
    assert answers(histories, items=catalogue(JAR)) == [LID]


def test_a_user_with_nothing_near_or_popular_gets_no_answer():
    assert answers(sequences(u="1:food_tea 2:food_tea 3:food_tea")) == []


@pytest.mark.parametrize("count", [1, 2])
def test_as_many_as_asked_for(count):
    histories = sequences(
        u="9:food_tea 9:food_tea 9:food_rye", a="1:food_tea 1:kitchen_pan 1:kitchen_wok 1:kitchen_jar"
    )
    assert len(answers(histories, count=count)) == count


def test_profiles_are_by_template():
    generator = Cooccurrence(0.8)
    generator.read({"items": [catalogue()], "sequences": [sequences(u="1:food_tea")], "probes": [NO_PROBES]})
    question = DomainProfileQuestion("u", "food", (("tea",),), 1, False, 20)
    [reply] = generator([Request(question, (), profile_schema(20), 10)])
    assert json.loads(reply.text) == {"profile": "food (1 actions): mostly tea."}
