import pyarrow as pa
import pytest

from data_lake.keyed_cache import KeyedCache
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.generator import Reply, Request, prompt_hash


class Oracle:
    """Answers each question with its text in capitals and a number that counts up; fails where told."""

    identity = {"model": "oracle"}  # noqa: RUF012

    def __init__(self, fails=()):
        self.fails = set(fails)
        self.asked = []

    def __call__(self, requests):
        return [self.answer(request.messages[0]["content"]) for request in requests]

    def answer(self, question):
        self.asked.append(question)
        if question in self.fails:
            return Reply(None, "cut", tokens_in=5, tokens_out=9)
        return Reply(f"{question.upper()} {len(self.asked)}", tokens_in=5, tokens_out=2, tokens_cached=1)


@pytest.fixture
def memory(tmp_path):
    return KeyedCache(tmp_path / "replies")


def ask(*questions):
    return [Request("t", ({"role": "user", "content": question},), {"type": "string"}, 10) for question in questions]


def texts(replies):
    return [reply.text for reply in replies]


def test_a_prompt_that_stands_twice_in_a_call_is_asked_once(memory):
    oracle = Oracle()
    once = CachedGenerator(oracle, memory)
    assert texts(once(ask("a", "b", "a"))) == ["A 1", "B 2", "A 1"]
    assert oracle.asked == ["a", "b"]
    assert (once.asked, once.reused) == (2, 1)
    assert (once.tokens_in, once.tokens_out, once.tokens_cached) == (10, 4, 2)


def test_a_later_run_asks_only_what_is_new_and_gets_the_same_replies(memory):
    first = CachedGenerator(Oracle(), memory)(ask("a", "b"))
    oracle = Oracle()
    once = CachedGenerator(oracle, KeyedCache(memory.folder))
    assert once(ask("b", "c", "a"))[::2] == [first[1], first[0]]
    assert oracle.asked == ["c"]
    assert (once.asked, once.reused, once.tokens_in) == (1, 2, 5)


def test_a_reply_that_is_not_worth_keeping_is_returned_in_this_run_and_asked_again_in_the_next(memory):
    oracle = Oracle()
    once = CachedGenerator(oracle, memory, worth_keeping=lambda reply, request: reply.text.startswith("A"))
    assert texts(once(ask("a", "b"))) == ["A 1", "B 2"]
    assert texts(once(ask("b", "a"))) == ["B 2", "A 1"]
    assert oracle.asked == ["a", "b"]
    oracle = Oracle()
    CachedGenerator(oracle, memory)(ask("a", "b"))
    assert oracle.asked == ["b"]


def test_a_failed_reply_is_not_kept(memory):
    replies = CachedGenerator(Oracle(fails=["b"]), memory)(ask("a", "b", "b"))
    assert [reply.error for reply in replies] == [None, "cut", "cut"]
    again = Oracle()
    assert texts(CachedGenerator(again, memory)(ask("a", "b"))) == ["A 1", "B 1"]
    assert again.asked == ["b"]


def test_a_failed_reply_that_is_worth_keeping_comes_back_with_its_error(memory):
    def keep(reply, request):
        return True

    first = CachedGenerator(Oracle(fails=["b"]), memory, worth_keeping=keep)(ask("b"))
    again = Oracle()
    assert CachedGenerator(again, memory, worth_keeping=keep)(ask("b")) == first == [Reply(None, "cut", 5, 9)]
    assert again.asked == []


def test_replies_of_an_earlier_version_without_errors_are_read(memory):
    old = {"key": [prompt_hash(ask("a")[0], Oracle.identity)], "text": ["old"]}
    memory.put(
        pa.table(old | {name: pa.array([1], pa.int32()) for name in ("tokens_in", "tokens_out", "tokens_cached")})
    )
    CachedGenerator(Oracle(), memory)(ask("b"))
    assert texts(CachedGenerator(Oracle(), memory)(ask("a", "b"))) == ["old", "B 1"]


def test_another_model_is_asked_again(memory):
    CachedGenerator(Oracle(), memory)(ask("a"))
    other = Oracle()
    other.identity = {"model": "other"}
    CachedGenerator(other, memory)(ask("a"))
    assert other.asked == ["a"]


def test_ask_again_asks_each_prompt_again_once_and_its_replies_replace_the_old(memory):
    CachedGenerator(Oracle(), memory)(ask("a", "b"))
    oracle = Oracle()
    oracle.asked = ["x"] * 10
    again = CachedGenerator(oracle, memory, ask_again=True)
    assert texts(again(ask("a"))) == ["A 11"]
    assert texts(again(ask("b", "a"))) == ["B 12", "A 11"]
    assert texts(CachedGenerator(Oracle(), memory)(ask("a", "b"))) == ["A 11", "B 12"]


def test_replies_are_kept_when_a_later_call_dies(memory):
    class Dying(Oracle):
        def answer(self, question):
            if question == "c":
                raise RuntimeError
            return super().answer(question)

    once = CachedGenerator(Dying(), memory)
    once(ask("a", "b"))
    with pytest.raises(RuntimeError):
        once(ask("c"))
    rest = Oracle()
    CachedGenerator(rest, memory)(ask("a", "b", "c"))
    assert rest.asked == ["c"]
