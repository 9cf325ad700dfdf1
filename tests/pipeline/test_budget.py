import json

import pytest

from data_lake.errors import UserError
from data_lake.keyed_cache import KeyedCache
from pipeline.llm.budget import Budget
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.generator import Reply
from tests.pipeline.stub_endpoint import ask
from tests.pipeline.worlds import FakeGenerator


class ByLength:
    """A tokenizer of which each character is a token."""

    is_estimate = False

    def count(self, requests):
        return [len(request.messages[0]["content"]) for request in requests]


class Model(FakeGenerator):
    """Answers each prompt with itself, at what it took; `calls` has how many prompts came at once."""

    def __init__(self, tokens_out=5, error=None, is_counting=True, **more):
        super().__init__(**more)
        self.tokens_out, self.error, self.is_counting, self.calls = tokens_out, error, is_counting, []

    def answer(self, request):
        prompt = request.messages[0]["content"]
        text = None if self.error else json.dumps({"items": [prompt]})
        return Reply(text, self.error, *((len(prompt), self.tokens_out) if self.is_counting else ()))

    def __call__(self, requests, *told):
        self.calls.append(len(requests))
        return super().__call__(requests, *told)


PROMPTS = [f"{number:04}" for number in range(20)]  # of 4 tokens; with 16 spare ones and an answer of 10 at most: 30


def test_a_run_sends_so_many_requests_and_no_more():
    model = Model()
    budget = Budget(model, max_requests=5, max_tokens=0)
    assert len(budget(ask(*PROMPTS[:3]))) == 3
    with pytest.raises(UserError, match=r"^\[llm\] max_run_requests = 5: all of them are sent\. What was answered is"):
        budget(ask(*PROMPTS[3:8]))
    assert model.asked == PROMPTS[:5]


@pytest.mark.parametrize(("max_tokens", "asked"), [(29, 0), (30, 1), (38, 1), (39, 2), (9 * 19 + 30, 20)])
def test_a_request_is_sent_where_the_tokens_suffice_at_worst_and_counted_by_what_it_took(max_tokens, asked):
    model = Model(tokens=ByLength())
    budget = Budget(model, max_requests=0, max_tokens=max_tokens)
    if asked < 20:
        with pytest.raises(UserError, match=rf"max_run_tokens = {max_tokens}: {9 * asked} are spent, and .* take 30\."):
            budget(ask(*PROMPTS))
    else:
        assert [reply.error for reply in budget(ask(*PROMPTS))] == [None] * 20
    assert model.asked == PROMPTS[:asked]


def test_many_requests_are_sent_at_once_while_the_tokens_suffice():
    model = Model(tokens=ByLength())
    budget = Budget(model, max_requests=0, max_tokens=300)
    assert len(budget(ask(*PROMPTS))) == 20
    assert model.calls == [10, 7, 3]  # 300 / 30, (300 - 90) / 30, (300 - 153) / 30 of 3 that are left


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        (Model(tokens_out=7), 11),
        (Model(is_counting=False), 30),
        (Model(is_counting=False, error="timeout"), 30),
        (Model(is_counting=False, error="http_503"), 0),
        (Model(error="cut"), 9),
    ],
)
def test_a_reply_that_does_not_say_what_it_took_is_taken_to_have_taken_the_most(model, taken):
    budget = Budget(model, max_requests=0, max_tokens=59)
    budget(ask("0000"))
    assert budget._tokens == taken


def test_without_the_models_tokenizer_a_byte_is_a_token():
    model = Model()
    with pytest.raises(UserError, match=r"0 are spent, and the next request may take 33"):
        Budget(model, max_requests=0, max_tokens=32)(ask("thés " + "\n"))
    assert model.asked == []


def test_what_was_answered_before_the_end_is_kept_and_costs_nothing_the_next_time(tmp_path):
    first, told = Model(), []
    once = CachedGenerator(Budget(first, max_requests=2, max_tokens=0), KeyedCache(tmp_path))
    with pytest.raises(UserError, match="max_run_requests = 2"):
        once(ask(*PROMPTS[:3]), lambda index, reply: told.append((index, reply.text)))
    assert told == [(0, '{"items": ["0000"]}'), (1, '{"items": ["0001"]}')]
    second = Model()
    once = CachedGenerator(Budget(second, max_requests=2, max_tokens=0), KeyedCache(tmp_path))
    assert len(once(ask(*PROMPTS[:4]))) == 4
    assert second.asked == PROMPTS[2:4]
