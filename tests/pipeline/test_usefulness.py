import pyarrow as pa
import pytest

from data_lake.schemas import DOMAIN_PROFILES, GENERATED_ITEMS
from data_lake.tables import check
from pipeline.llm.usefulness import Limits, Usefulness, without_common


def items(*rows, start=0):
    """Return GENERATED_ITEMS of one row per (prompt, answers, reasons of dropped ones)."""
    count = len(rows)
    prompts, answers, dropped = zip(*rows, strict=True)
    ok = [bool(each) for each in answers]
    table = {
        "user_id": [f"u{start + number}" for number in range(count)], "from_domain": ["food"] * count,
        "to_domain": ["kitchen"] * count, "prompt_hash": prompts, "reply": ["{}"] * count,
        "status": ["ok" if each else "failed" for each in ok],
        "reason": pa.array([None if each else "echo" for each in ok], pa.string()),
        **{name: [0] * count for name in ("tokens_in", "tokens_out", "tokens_cached")}, "dropped": dropped,
        "answers": answers, "item_ids": [[]] * count, "seen": [0] * count, "forbidden": [1] * count,
    }  # fmt: skip
    return check(pa.table(table), GENERATED_ITEMS)


def profiles(*texts, domains=None):
    count = len(texts)
    names = [f"u{number}" for number in range(count)]
    table = {
        "user_id": names, "domain": domains or ["food"] * count, "text": pa.array(texts, pa.string()),
        "evidence": [1] * count, "inferred": [False] * count, "seen": [0] * count,
        "forbidden": [1] * count, "prompt_hash": names, "reply": names,
        "status": ["ok"] * count, "reason": pa.nulls(count), "dropped": [[]] * count,
        **{name: [0] * count for name in ("tokens_in", "tokens_out", "tokens_cached")},
    }  # fmt: skip
    return check(pa.table(table), DOMAIN_PROFILES)


def counted(*shards):
    usefulness = Usefulness()
    for shard in shards:
        usefulness.add(shard)
    return usefulness


def own(*numbers):
    return [(f"p{number}", [f"pan {number}"], []) for number in numbers]


def everybodys(*numbers, texts=("Wok", "Pot")):
    return [(f"q{number}", list(texts), []) for number in numbers]


@pytest.mark.parametrize(("users", "failed"), [(5, 0), (6, 6)])
def test_a_reply_to_more_than_five_different_prompts_is_none(users, failed):
    shard = items(*everybodys(*range(users)), *own(1, 2))
    after = without_common(shard, counted(shard).common)
    assert after["reason"].to_pylist() == ["same"] * failed + [None] * (users + 2 - failed)
    assert after["status"].to_pylist().count("failed") == failed
    assert after["answers"].to_pylist()[-2:] == [["pan 1"], ["pan 2"]]
    assert after["answers"].to_pylist()[:failed] == [[]] * failed
    assert after.schema == shard.schema


def test_one_prompt_of_many_users_may_have_one_reply():
    shard = items(*everybodys(*[7] * 30), *own(1))
    assert without_common(shard, counted(shard).common) == shard


@pytest.mark.parametrize(("others", "is_common"), [(293, True), (294, False)])
def test_a_reply_to_two_percent_of_the_prompts_or_fewer_is_one(others, is_common):
    assert (len(counted(items(*everybodys(*range(6)), *own(*range(others)))).common) == 1) is is_common


def test_replies_are_the_same_whatever_their_case_their_order_and_their_shard():
    first, second = items(*everybodys(0, 1, 2)), items(*everybodys(3, 4, 5, texts=("POT.", "wok")), *own(1), start=3)
    common = counted(first, second).common
    assert without_common(first, common)["reason"].to_pylist() == ["same"] * 3
    assert without_common(second, common)["reason"].to_pylist() == ["same"] * 3 + [None]


def test_a_profile_that_many_users_got_is_none():
    shard = profiles(*["Likes tea."] * 6, None, "Likes rye bread.")
    after = without_common(shard, counted(shard).common)
    assert after["text"].to_pylist() == [None] * 7 + ["Likes rye bread."]
    assert after["reason"].to_pylist() == ["same"] * 6 + [None] * 2


def test_useless_is_the_mean_share_of_the_answers_of_a_reply_that_were_dropped():
    seen = counted(items(("a", ["Wok"], ["copied"]), ("b", [], ["echo", "echo"]), ("c", ["Pan", "Pot"], [])))
    assert seen.useless == pytest.approx((0.5 + 1 + 0) / 3)
    assert seen.dropped == {"echo": 2, "copied": 1}
    assert seen.distinct == 3


def test_all_of_a_reply_that_many_users_got_is_useless():
    seen = counted(items(*everybodys(*range(6))), items(*own(1, 2), start=6))
    assert seen.useless == pytest.approx(6 / 8)
    assert seen.dropped == {"same": 12}


def test_rows_that_were_not_asked_or_failed_otherwise_do_not_count():
    seen = counted(items(("", [], []), ("a", ["Wok"], [])))
    assert (seen.useless, seen.alike, seen.distinct) == (0, 0, 1)
    assert (Usefulness().useless, Usefulness().distinct) == (0, 0)


def test_alike_is_what_the_answers_of_two_users_have_in_common():
    seen = counted(items(("a", ["Wok", "Pot"], []), ("b", ["wok", "Pan"], []), ("c", ["Lid"], [])))
    assert seen.alike == pytest.approx((1 / 3 + 0) / 2)


def test_profiles_are_alike_by_their_words_and_compared_within_their_domain():
    seen = counted(profiles("Likes tea.", "Buys pans", "likes bread", "buys pans.", domains=["food", "kitchen"] * 2))
    assert seen.alike == pytest.approx((1 / 3 + 1) / 2)


def test_the_same_prompt_says_nothing_about_likeness():
    assert counted(items(("a", ["Wok"], []), ("a", ["Wok"], []))).alike == 0


def test_what_is_wrong_is_said_with_its_figures():
    shard = items(*[(f"p{number}", [f"Pan {number}"], ["copied", "echo", "copied"]) for number in range(20)])
    assert counted(shard).complaint(Limits(0.75, 1)) == ""
    assert counted(shard).complaint(Limits(0.7, 1)) == (
        "75% of what was answered says nothing (answers dropped: copied: 40, echo: 20)"
    )
    alike = profiles(*(f"The customer likes {word}" for word in "abcdefghijklmnopqrst"))
    assert counted(alike).complaint(Limits(0, 0.7)) == ""
    assert counted(alike).complaint(Limits(0, 0.5)) == "the answers about any two users are alike by 60%"


def test_of_few_answers_nothing_is_said():
    assert counted(items(*[(f"p{n}", [], ["echo"]) for n in range(19)])).complaint(Limits(0, 0)) == ""
