import json
from dataclasses import replace

import pytest

from pipeline.llm.generator import Candidate, DomainProfileQuestion, DomainSummary, Request, UserProfileQuestion
from pipeline.llm.prompts import items_schema, numbers_schema, profile_schema, scores_schema
from pipeline.llm.reading import BadReply, Reading, read_reply
from tests.pipeline.worlds import items_question

SYSTEM = "You know a shop. Name items of kitchen, such as a Green Teapot."
ITEMS = items_question(titles=["Herb Tea, 16 oz", "Rye Bread"])
DOMAIN = DomainProfileQuestion("u", "food", (("Herb Tea, 16 oz",), ("Rye Bread",)), 2, False, 5)
USER = UserProfileQuestion((DomainSummary("food", "Prefers herb tea.", 2),))
OWN = {
    "generate_items": 'Items chosen, oldest first:\n"Herb Tea, 16 oz"\n"Rye Bread"',
    "profile_domain": 'Group 1\nchosen "Herb Tea, 16 oz"\nGroup 2\nguessed "Rye Bread"',
    "profile_user": '{"part": "food", "evidence": 2, "description": "Prefers herb tea."}',
}


def request(question=ITEMS, longest=40, schema=None):
    chat = ({"role": "system", "content": SYSTEM}, {"role": "user", "content": OWN[question.task]})
    if schema is None:
        schema = items_schema(4, longest) if question is ITEMS else profile_schema(5)
    return Request(question, chat, schema, 64)


def items(*texts, **asked):
    return read_reply(json.dumps({"items": texts}), request(**asked))


def profile(text, question=DOMAIN, longest=60, is_retry=False):
    schema = profile_schema(5)
    schema["properties"]["profile"]["maxLength"] = longest
    return read_reply(json.dumps({"profile": text}), replace(request(question, schema=schema), is_retry=is_retry))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Sure! rice", "not_json"),
        ('{"items": ["rice"', "not_json"),
        ('{"items": ["\\ud800"]}', "not_json"),
        ("[" * 100_000, "not_json"),
        ('["rice"]', "schema"),
        ('{"items": "rice"}', "schema"),
        ('{"items": ["rice"], "why": "tasty"}', "schema"),
        ('{"items": [1]}', "schema"),
        ('{"items": ["a", "b", "c", "d", "e"]}', "schema"),
        ('{"items": ["longer than the forty characters that it may have"]}', "schema"),
        ('{"items": []}', "empty"),
        ('{"items": [" ", "!"]}', "empty"),
        ('{"items": ["green teapot", "Rye  bread", "RYE BREAD"]}', "copied"),
        ('{"items": ["green teapot", "kitchen", "Rye bread"]}', "echo"),
        ("<think>rice?", "not_json"),
        ('<think>perhaps {"items": ["rice"]}', "not_json"),
        ('{"items": ["rice"]} or {"items": ["tea"]}', "not_json"),
        ("{" * 100_000 + '{"items": ["rice"]}', "not_json"),
        ("```" + " " * 1_000_000 + "x", "not_json"),
        ("", "not_json"),
    ],
)
def test_a_reply_that_cannot_be_used_says_why(text, reason):
    with pytest.raises(BadReply, match=f"^{reason}$"):
        read_reply(text, request())


def test_a_good_reply_is_its_texts():
    assert items("rice", " tea ") == Reading(("rice", "tea"))
    assert profile("Likes tea") == Reading(("Likes tea",))


@pytest.mark.parametrize(
    "text",
    [
        '<think>The user\nlikes {"tea"}.</think>\n\n{"items": ["Pan"]}',
        'and so on.\n</think>{"items": ["Pan"]}',
        '```json\n{"items": ["Pan"]}\n```',
        '```\n{"items": ["Pan"]}```\n',
        '<think>\n\n</think>\n```json\n{"items": ["Pan"]}\n```',
        '\n {"items": ["Pan"]} ',
        'Sure! Here is the JSON:\n{"items": ["Pan"]}',
        'Here you go:\n```json\n{"items": ["Pan"]}\n```\nEnjoy {all} of it!',
        '```json\n{"items": ["Pan"]}',
        '\ufeff{"items": ["Pan"]}<|im_end|>',
        '{"items": ["Pan"]}\n\n{"items": ["Pan"]}',
        '[THINK]{"items": ["tea"]}?[/THINK]{"items": ["Pan"]}',
        '<thinking>{tea}</thinking> {"items": ["Pan"]}',
        '<|channel|>analysis<|message|>{"items": []}<|end|><|channel|>final<|message|>{"items": ["Pan"]}',
    ],
)
def test_what_stands_around_the_one_object_of_an_answer_is_no_part_of_it(text):
    assert read_reply(text, request()) == Reading(("Pan",))


def test_a_string_may_hold_raw_line_ends():
    assert read_reply('{"items": ["Pan\n", "a\tpot"]}', request()) == Reading(("Pan", "a\tpot"))


def test_marks_inside_an_answer_are_its_own():
    assert items("a </think> b", "```c```") == Reading(("a </think> b", "```c```"))


def test_an_answer_that_says_nothing_is_left_out_and_the_others_stay():
    assert items("Pan", "PAN ", "rye bread.", "Green teapot") == Reading(("Pan",), ("repeated", "copied", "echo"))
    assert items("Pan", " ") == Reading(("Pan",), ("empty",))


def test_an_item_may_name_a_word_of_a_shown_title_or_go_beyond_one():
    kept = ("Bread", "Rye Bread Knife", "Herb Tea")
    assert items(*kept) == Reading(kept)


@pytest.mark.parametrize("text", ["Herb Tea, 16 o", "Herb tea …", "Herb (tea…)", "Herb Tea..."])
def test_the_beginning_of_a_shown_title_is_a_copy_where_the_answer_was_cut_there(text):
    assert items("Pan", text, longest=14) == Reading(("Pan",), ("copied",))


def test_the_words_around_the_shown_titles_are_an_echo():
    assert items("Pan", "oldest first", "items chosen oldest") == Reading(("Pan",), ("echo", "echo"))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("black teas", "black"), ("pan, large-", "pan"), ("black tea.", "black tea."), ("blackteas1", "blackteas1"),
        ("black tea ", "black tea"), ("black tea", "black tea"),
    ],
)  # fmt: skip
def test_an_answer_that_the_schema_ended_loses_its_last_word(text, kept):
    assert items(text, longest=max(len(text), 10)) == Reading((kept,))


def test_answers_that_are_the_same_once_they_are_cut_are_one():
    assert items("black teas", "black tean", longest=10) == Reading(("black",), ("repeated",))


@pytest.mark.parametrize("text", ["likes tea and", "likes tea, an"])
def test_a_profile_that_the_schema_ended_inside_a_sentence_is_cut_and_the_second_one_loses_its_last_word(text):
    with pytest.raises(BadReply, match=r"^cut$"):
        profile(text, longest=len(text))
    assert profile(text, longest=len(text), is_retry=True) == Reading(("likes tea",))


@pytest.mark.parametrize("end", [".", "!", "?", "…", "。"])
def test_a_profile_as_long_as_the_schema_allows_is_good_where_its_sentence_ends(end):
    text = f"likes tea{end}"
    assert profile(text, longest=len(text)) == Reading((text,))


@pytest.mark.parametrize(
    ("text", "question", "reason"),
    [
        ("Herb tea", DOMAIN, "copied"),
        ("Rye Bread.", DOMAIN, "copied"),
        ("- Rye bread\n- Herb Tea, 16 oz\n- Rye bread, rye bread", DOMAIN, "copied"),
        ("Group 1: chosen Herb Tea, 16 oz", DOMAIN, "echo"),
        ("You know a shop", DOMAIN, "echo"),
        ("you know a shop", USER, "echo"),
        ("part: food, evidence: 2", USER, "echo"),
        ("...", USER, "empty"),
    ],
)
def test_a_profile_that_says_only_what_its_prompt_says_is_none(text, question, reason):
    with pytest.raises(BadReply, match=f"^{reason}$") as bad:
        profile(text, question)
    assert bad.value.dropped == (reason,)


def test_a_list_of_shown_titles_that_the_schema_ended_is_a_copy():
    text = "Rye Bread, Herb Tea, 16 oz, Rye Br"
    with pytest.raises(BadReply, match=r"^copied$"):
        profile(text, longest=len(text), is_retry=True)


def test_a_profile_may_name_shown_titles_beside_words_of_its_own():
    said = "Rye Bread fan; Herb Tea, 16 oz"
    assert profile(said) == Reading((said,))


def test_the_only_description_of_a_user_may_be_the_profile():
    assert profile("Prefers herb tea.", USER) == Reading(("Prefers herb tea.",))


def test_an_answer_that_no_language_model_gave_is_not_judged():
    said = ("Rye Bread", "rye bread", "kitchen")
    assert read_reply(json.dumps({"items": said}), request(), is_judged=False) == Reading(said)
    template = replace(request(DOMAIN), schema=profile_schema(5))
    assert read_reply('{"profile": "Rye Bread"}', template, is_judged=False) == Reading(("Rye Bread",))


@pytest.mark.parametrize(("texts", "reason"), [(["Pan", "Pan "], "repeated"), (["Pan", " "], "empty"), ([], "empty")])
def test_a_generator_that_is_no_language_model_fails_where_it_breaks_its_word(texts, reason):
    with pytest.raises(BadReply, match=f"^{reason}$"):
        read_reply(json.dumps({"items": texts}), request(), is_judged=False)


def plain(text, longest=60, is_retry=False):
    schema = profile_schema(5)
    schema["properties"]["profile"]["maxLength"] = longest
    return read_reply(text, replace(request(DOMAIN, schema=schema), is_text=True, is_retry=is_retry))


@pytest.mark.parametrize(
    "text",
    ["Likes strong tea.\n", "<think>hm</think>\nLikes strong tea.", "```\nLikes strong tea.\n```",
     '{"profile": "Likes strong tea."}'],
)  # fmt: skip
def test_a_plain_reply_is_the_profile_and_one_in_json_all_the_same(text):
    assert plain(text).texts == ("Likes strong tea.",)


def test_a_plain_reply_that_is_all_thought_is_empty():
    with pytest.raises(BadReply, match="empty"):
        plain("<think>The user likes tea, so")


def test_a_plain_reply_longer_than_asked_for_is_cut_and_the_second_one_ends_at_a_word():
    with pytest.raises(BadReply, match="cut"):
        plain("Likes strong tea and more.", longest=20)
    assert plain("Likes strong tea and more.", longest=20, is_retry=True).texts == ("Likes strong tea",)


def test_a_plain_reply_is_judged_like_any_other():
    with pytest.raises(BadReply, match="copied"):
        plain("Herb Tea, 16 oz")


def of_candidates(text, answers=3, choices=()):
    candidates = tuple(Candidate(f"k{number}", f"pot {number}") for number in range(1, 6))
    question = replace(items_question(answers=answers), candidates=candidates)
    schema = scores_schema(5) if choices else numbers_schema(answers, 5)
    return read_reply(text, Request(question, request().messages, schema, 64, choices=choices))


def test_numbers_are_the_candidates_in_the_order_chosen_each_once():
    read = of_candidates('{"numbers": [4, 2, 4]}')
    assert read == Reading(("pot 4", "pot 2"), ("repeated",), ("k4", "k2"))


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [("[0]", "schema"), ("[6]", "schema"), ("[true]", "schema"), ("[1, 2, 3, 4]", "schema"), ("2", "schema"),
     ("[]", "empty"), ("[1, 2, 3]", "echo")],
)  # fmt: skip
def test_numbers_that_choose_nothing_say_why(numbers, reason):
    with pytest.raises(BadReply, match=reason):
        of_candidates(f'{{"numbers": {numbers}}}')


def test_the_first_two_candidates_may_be_the_choice():
    assert of_candidates('{"numbers": [1, 2]}').item_ids == ("k1", "k2")


def test_the_likeliest_candidates_are_the_answer_and_of_equal_ones_the_first():
    read = of_candidates('{"scores": [-3, -1.5, -2, -1.5, -9]}', choices=tuple("abcde"))
    assert read == Reading(("pot 2", "pot 4", "pot 3"), (), ("k2", "k4", "k3"))


def test_a_score_may_be_a_number_that_no_float_holds():
    read = of_candidates(f'{{"scores": [-3, {10**400}, -2, -{10**400}, -9]}}', answers=1, choices=tuple("abcde"))
    assert read.item_ids == ("k2",)


@pytest.mark.parametrize("scores", ["[-1]", "[-1, -1, -1, -1, NaN]", '[-1, -1, -1, -1, "a"]', "{}"])
def test_scores_that_are_not_one_number_a_candidate_break_the_schema(scores):
    with pytest.raises(BadReply, match="schema"):
        of_candidates(f'{{"scores": {scores}}}', choices=tuple("abcde"))
