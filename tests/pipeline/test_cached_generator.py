import itertools
import time
from dataclasses import replace
from unittest.mock import ANY

import pyarrow as pa
import pytest

from data_lake.keyed_cache import KeyedCache
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.generator import Reply, Request, prompt_hash, prompt_hash_with_room
from tests.pipeline.worlds import FakeGenerator, items_question


class Oracle(FakeGenerator):
    """Answers each question with its text in capitals and a number that counts up; fails where told."""

    def __init__(self, fails=(), identity=None, first=1):
        super().__init__(identity or {"model": "oracle"})
        self.fails, self.numbers = set(fails), itertools.count(first)

    def answer(self, request):
        text, number = request.messages[0]["content"], next(self.numbers)
        if text in self.fails:
            return Reply(None, "cut", tokens_in=5, tokens_out=9)
        return Reply(f"{text.upper()} {number}", tokens_in=5, tokens_out=2, tokens_cached=1)


@pytest.fixture
def cache(tmp_path):
    return KeyedCache(tmp_path / "replies")


def ask(*texts):
    return [Request(items_question(), ({"role": "user", "content": text},), {"type": "string"}, 10) for text in texts]


def texts_of(replies):
    return [reply.text for reply in replies]


def test_a_prompt_that_stands_twice_in_a_call_is_asked_once(cache):
    oracle = Oracle()
    once = CachedGenerator(oracle, cache)
    assert texts_of(once(ask("a", "b", "a"))) == ["A 1", "B 2", "A 1"]
    assert oracle.asked == ["a", "b"]
    assert once.counts() == {"asked": 2, "reused": 1, "seconds_asking": ANY}


def test_what_was_counted_is_told_once_beside_what_the_generator_counted(cache):
    class Counting(Oracle):
        def counts(self):
            return {"engines": 2}

        def answer(self, request):
            time.sleep(0.01)
            return super().answer(request)

    once = CachedGenerator(Counting(), cache)
    once(ask("a"))
    once(ask("a", "b"))
    counts = once.counts()
    assert counts == {"engines": 2, "asked": 2, "reused": 1, "seconds_asking": ANY}
    assert 0.02 <= counts["seconds_asking"] < 10
    assert once.counts() == {"engines": 2, "asked": 0, "reused": 0, "seconds_asking": 0}


def test_each_reply_is_told_once_by_the_index_of_its_request(cache):
    CachedGenerator(Oracle(), cache)(ask("b"))
    once, told = CachedGenerator(Oracle(), cache), []
    replies = once(ask("a", "b", "a"), lambda *heard: told.append(heard))
    assert sorted(told, key=lambda heard: heard[0]) == list(enumerate(replies))


def test_whatever_else_is_asked_of_it_the_generator_answers(cache):
    class Telling(Oracle):
        def __init__(self):
            super().__init__()
            self.fingerprint, self.tokens, self.last_words = {"llm": "oracle"}, object(), "no more"
            self.patience = None

        def close(self, patience=15.0):
            self.patience = patience

    oracle = Telling()
    once = CachedGenerator(oracle, cache)
    assert (once.asks_model, once.reads) == (True, ())
    assert (once.identity, once.fingerprint) == ({"model": "oracle"}, {"llm": "oracle"})
    assert once.tokens is oracle.tokens
    assert once.last_words == "no more"
    once.close(patience=3)
    assert oracle.patience == 3


def test_a_later_run_asks_only_what_is_new_and_gets_the_same_replies(cache):
    first = CachedGenerator(Oracle(), cache)(ask("a", "b"))
    oracle = Oracle()
    once = CachedGenerator(oracle, KeyedCache(cache.folder))
    replies = once(ask("b", "c", "a"))
    assert replies == [first[1], Reply("C 1", None, tokens_in=5, tokens_out=2, tokens_cached=1), first[0]]
    assert oracle.asked == ["c"]
    assert once.counts() == {"asked": 1, "reused": 2, "seconds_asking": ANY}


def test_a_reply_that_is_not_worth_keeping_is_returned_in_this_run_and_asked_again_in_the_next(cache):
    oracle = Oracle()
    once = CachedGenerator(oracle, cache, worth_keeping=lambda reply, request: reply.text.startswith("A"))
    assert texts_of(once(ask("a", "b"))) == ["A 1", "B 2"]
    assert texts_of(once(ask("b", "a"))) == ["B 2", "A 1"]
    assert oracle.asked == ["a", "b"]
    oracle = Oracle()
    CachedGenerator(oracle, cache)(ask("a", "b"))
    assert oracle.asked == ["b"]


def test_a_failed_reply_is_not_kept(cache):
    replies = CachedGenerator(Oracle(fails=["b"]), cache)(ask("a", "b", "b"))
    assert [reply.error for reply in replies] == [None, "cut", "cut"]
    again = Oracle()
    assert texts_of(CachedGenerator(again, cache)(ask("a", "b"))) == ["A 1", "B 1"]
    assert again.asked == ["b"]


def test_a_failed_reply_that_is_worth_keeping_comes_back_with_its_error(cache):
    def keep(reply, request):
        return True

    first = CachedGenerator(Oracle(fails=["b"]), cache, worth_keeping=keep)(ask("b"))
    again = Oracle()
    assert CachedGenerator(again, cache, worth_keeping=keep)(ask("b")) == first == [Reply(None, "cut", 5, 9)]
    assert again.asked == []


def test_replies_of_an_earlier_version_without_errors_are_read(cache):
    old = {"key": [prompt_hash(ask("a")[0], Oracle().identity)], "text": ["old"]}
    cache.put(
        pa.table(old | {name: pa.array([1], pa.int32()) for name in ("tokens_in", "tokens_out", "tokens_cached")})
    )
    CachedGenerator(Oracle(), cache)(ask("b"))
    assert texts_of(CachedGenerator(Oracle(), cache)(ask("a", "b"))) == ["old", "B 1"]


def with_room(max_tokens, *texts):
    return [replace(request, max_tokens=max_tokens) for request in ask(*texts)]


def test_a_whole_reply_is_reused_however_long_the_answer_may_be(cache):
    CachedGenerator(Oracle(), cache)(with_room(10, "a"))
    later = Oracle()
    once = CachedGenerator(later, KeyedCache(cache.folder))
    assert texts_of(once(with_room(20, "a")) + once(with_room(5, "a"))) == ["A 1", "A 1"]
    assert later.asked == []


@pytest.mark.parametrize(("room", "asked"), [(9, []), (10, []), (11, ["a"])])
def test_a_reply_that_was_cut_is_asked_again_where_there_is_more_room(cache, room, asked):
    def keep(reply, request):
        return True

    CachedGenerator(Oracle(fails="a"), cache, worth_keeping=keep)(with_room(10, "a"))
    later = Oracle()
    CachedGenerator(later, KeyedCache(cache.folder), worth_keeping=keep)(with_room(room, "a"))
    assert later.asked == asked
    whole = CachedGenerator(Oracle(fails="a"), KeyedCache(cache.folder))(with_room(room, "a"))
    assert texts_of(whole) == (["A 1"] if asked else [None])


def test_replies_under_the_keys_of_earlier_versions_are_found(cache):
    requests, identity = ask("a", "b"), Oracle().identity
    keys = [prompt_hash_with_room(requests[0], identity), prompt_hash_with_room(requests[1], identity)]
    counts = {name: pa.array([1, 1], pa.int32()) for name in ("tokens_in", "tokens_out", "tokens_cached")}
    cache.put(pa.table({"key": keys, "text": ["old", None], "error": [None, "cut"], **counts}))
    oracle = Oracle()
    once = CachedGenerator(oracle, KeyedCache(cache.folder))
    assert [(reply.text, reply.error) for reply in once(ask("b", "a", "c"))] == [
        (None, "cut"),
        ("old", None),
        ("C 1", None),
    ]
    assert oracle.asked == ["c"]


def test_another_model_is_asked_again(cache):
    CachedGenerator(Oracle(), cache)(ask("a"))
    other = Oracle(identity={"model": "other"})
    CachedGenerator(other, cache)(ask("a"))
    assert other.asked == ["a"]


def test_ask_again_asks_each_prompt_once_more_and_its_replies_replace_the_old(cache):
    CachedGenerator(Oracle(), cache)(ask("a", "b"))
    again = CachedGenerator(Oracle(first=11), cache, ask_again=True)
    assert texts_of(again(ask("a"))) == ["A 11"]
    assert texts_of(again(ask("b", "a"))) == ["B 12", "A 11"]
    assert texts_of(CachedGenerator(Oracle(), cache)(ask("a", "b"))) == ["A 11", "B 12"]


def test_replies_are_kept_when_a_later_call_dies(cache):
    class Dying(Oracle):
        def answer(self, request):
            if request.messages[0]["content"] == "c":
                raise RuntimeError
            return super().answer(request)

    once = CachedGenerator(Dying(), cache)
    once(ask("a", "b"))
    with pytest.raises(RuntimeError):
        once(ask("c"))
    rest = Oracle()
    CachedGenerator(rest, cache)(ask("a", "b", "c"))
    assert rest.asked == ["c"]
