"""What endpoints of many makes send: a whole answer counts, and every other one says why it is none."""

from dataclasses import replace

import pytest

import pipeline.llm.openai as module
from data_lake.errors import UserError
from data_lake.keyed_cache import KeyedCache
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.answers import ask as ask_twice
from pipeline.llm.answers import worth_keeping
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.completion import error_status, is_overflow, read_completion
from pipeline.llm.generator import Reply
from pipeline.llm.openai import OpenAI
from tests.pipeline.stub_endpoint import StubEndpoint, ask, completion

ITEM = '{"items": ["odd"]}'
[REQUEST] = ask("odd")


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)
    with StubEndpoint() as server:
        yield server


def openai(url, **settings):
    return OpenAI(LLMConfig(model="m"), OpenAIConfig(base_url=url, **settings))


def answered(message, **choice):
    return {"choices": [{"message": message, **choice}]}


def read(message, request=REQUEST, **choice):
    """Return the text of a completion, or its error."""
    reply = read_completion(answered(message, **choice), request)
    return reply.error or reply.text


@pytest.mark.parametrize(
    "finish",
    [None, "stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "", "tool_calls", "max_tokens", "SAFETY",
     "\x1b[31m", 7, ["stop"], {"type": "stop"}],
)  # fmt: skip
def test_a_whole_answer_counts_whatever_its_end_is_called(finish):
    assert read({"content": ITEM}, finish_reason=finish) == ITEM
    assert read({"content": f"Sure:\n{ITEM}"}, finish_reason=finish) == f"Sure:\n{ITEM}"


def test_a_whole_answer_counts_without_any_word_on_its_end():
    assert read({"content": ITEM}) == ITEM


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "cut"), ("LENGTH", "cut"), ("content_filter", "content_filter")]
)
def test_an_answer_that_met_the_limit_of_tokens_or_the_filter_is_none_even_if_it_looks_whole(finish, reason):
    assert read({"content": ITEM}, finish_reason=finish) == reason


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("max_tokens", "cut"), ("MAX_TOKENS", "cut"), ("tool_calls", "tool_calls"), ("SAFETY", "safety"),
     ("\x1b[31m", "no_completion"), (7, "no_completion")],
)  # fmt: skip
def test_what_is_not_whole_fails_with_the_word_of_its_end(finish, reason):
    assert read({"content": '{"items": ["od'}, finish_reason=finish) == reason


@pytest.mark.parametrize("finish", [None, "stop", "eos_token", "STOP"])
def test_what_is_not_whole_and_ended_well_is_for_the_reader_to_judge(finish):
    assert read({"content": '{"items": ["od'}, finish_reason=finish) == '{"items": ["od'


def test_plain_text_counts_where_its_end_is_that_of_a_whole_answer():
    plain = replace(REQUEST, is_text=True)
    assert read({"content": "Likes tea."}, plain, finish_reason="eos_token") == "Likes tea."
    assert read({"content": "Likes tea."}, plain, finish_reason="max_tokens") == "cut"
    assert read({"content": "Likes tea."}, plain, finish_reason="abort") == "abort"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"content": None, "reasoning_content": ITEM}, ITEM),
        ({"content": "", "reasoning": ITEM}, ITEM),
        ({"content": None, "reasoning_content": "Tea, surely."}, "only_reasoning"),
        ({"content": "", "reasoning_content": f"Perhaps {ITEM}."}, f"Perhaps {ITEM}."),
        ({"content": ITEM, "reasoning_content": '{"items": ["draft"]}'}, ITEM),
        ({"content": [{"type": "text", "text": '{"items": '}, {"type": "text", "text": '["odd"]}'}]}, ITEM),
        ({"content": [{"type": "thinking", "thinking": "Tea?"}, {"type": "output_text", "text": ITEM}]}, ITEM),
        ({"content": {"type": "text", "text": ITEM}}, ITEM),
        ({"content": {"items": ["odd"]}}, ITEM),
        ({"content": [{"type": "reasoning", "text": "Tea?"}]}, "no_text"),
        ({"content": []}, "no_text"),
        ({"content": None, "refusal": "I can not."}, "refusal"),
        ({"content": [{"type": "refusal", "refusal": "I can not."}]}, "refusal"),
        ({"content": ITEM, "refusal": None}, ITEM),
        ({"content": None}, "no_text"),
        ({}, "no_text"),
    ],
)
def test_the_answer_is_found_where_servers_put_it_and_else_the_reason_says_what_was_there(message, said):
    assert read(message, finish_reason="stop") == said


def test_thoughts_are_no_plain_text():
    assert read({"content": None, "reasoning": "Tea?"}, replace(REQUEST, is_text=True)) == "only_reasoning"


def test_an_answer_of_the_older_shape_is_read():
    assert read_completion({"choices": [{"text": ITEM}]}, REQUEST) == Reply(ITEM)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, 429),
        ({"error": {"code": "503"}}, 503),
        ({"error": {"status": 502}}, 502),
        ({"error": {"type": "rate_limit_error"}}, 429),
        ({"error": {"code": 8, "status": "RESOURCE_EXHAUSTED"}}, 429),
        ({"error": {"type": "overloaded_error"}}, 503),
        ({"error": {"code": "invalid_api_key"}}, 401),
        ({"error": {"code": "model_not_found"}}, 404),
        ({"error": "Too Many Requests", "status_code": 429}, 429),
        ({"error": True, "code": 500, "message": "x"}, 500),
        ({"object": "error", "message": "bad", "code": 400}, 400),
        ({"choices": [{"error": {"code": 502}, "finish_reason": "error"}]}, 502),
        ({"error": {"code": True}}, 0),
        ({"error": {"code": 200}}, 0),
        ({"error": "what?"}, 0),
        ({"error": None}, None),
        ({"error": None, "choices": []}, None),
        ([429], None),
        (None, None),
    ],
)
def test_an_error_in_a_body_is_known_by_its_number_or_its_kind(body, status):
    assert error_status(body) == status


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, '{"error": {"code": "context_length_exceeded", "message": "x"}}'),
        (500, '{"error": {"code": 500, "type": "exceed_context_size_error"}}'),
        (400, "This model's maximum context length is 4097 tokens."),
        (400, "the request exceeds the available context size. try increasing the context size"),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"),
        (422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 1800"),
        (400, "The decoder prompt (length 5000) is longer than the maximum model length of 2048."),
        (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
        (400, "prompt is too long: 208310 tokens > 200000 maximum"),
        (400, "Input is too long for requested model."),
        (400, "The input token count (32800) exceeds the maximum number of tokens allowed (32768)."),
        (400, "too many tokens: total number of tokens in the prompt cannot exceed 4081"),
        (400, "Prompt length (3000) exceeds maximum input length (2048)."),
        (400, "Please reduce the length of the messages or completion."),
        (400, "Range of input length should be [1, 30720]"),
        (413, ""),
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_code_status_or_words(status, said):
    assert is_overflow(status, said.encode())


@pytest.mark.parametrize(
    "said",
    ["max_tokens is too large: 5000", "invalid input: temperature must be <= 2", "Unknown parameter: seed", "",
     "no such model", "too many tokens per minute"],
)  # fmt: skip
def test_another_refusal_is_not_taken_for_a_prompt_that_is_too_long(said):
    assert not is_overflow(400, said.encode())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (413, b"<html>Request Entity Too Large</html>"),
        (200, b'{"error": {"code": 400, "message": "the request exceeds the available context size"}}'),
        (
            422,
            b'{"error": "Input validation error: `inputs` must have less than 9 tokens"}',
        ),
    ],
)
def test_a_prompt_that_is_too_long_loses_titles_until_it_fits(endpoint, status, body):
    endpoint.script = {"three titles": (status, {}, body), "a title": (200, {}, completion(ITEM))}
    prompts = {0: "three titles", 2: "a title"}
    generator = openai(endpoint.url)
    [answer] = ask_twice(generator, 1, lambda index, is_retry, dropped: ask(prompts[dropped])[0])
    assert answer.value == ("odd",)
    assert endpoint.asked == ["three titles", "a title"]


def replies(endpoint, script, **settings):
    """Return the reply to `odd`, which the endpoint answers by the script one after the other, and its last words."""
    generator, answers = openai(endpoint.url, concurrency=1, **settings), iter(script)
    endpoint.script = _Each(answers)
    [reply] = generator(ask("odd"))
    return reply.error or reply.text, generator.last_words


class _Each:
    """A script that says the next thing each time; at its end, what it said last."""

    def __init__(self, answers):
        self._answers, self._last = answers, None

    def get(self, prompt, usual):
        self._last = next(self._answers, self._last)
        return self._last


@pytest.mark.parametrize(
    "passing",
    [
        (200, {}, b'{"error": {"code": 429, "message": "slow down"}}'),
        (200, {}, b'{"choices": [{"error": {"code": 502}, "finish_reason": "error"}]}'),
        (200, {}, b"<html><title>Sign in</title></html>"),
        (200, {}, b""),
        (204, {}, b""),
        (200, {}, b'{"error": "what?"}'),
        (200, {"Content-Encoding": "gzip"}, b"no gzip"),
    ],
)
def test_what_may_pass_is_asked_again(endpoint, passing):
    assert replies(endpoint, [passing, (200, {}, completion(ITEM))])[0] == ITEM


@pytest.mark.parametrize(
    ("lasting", "reason", "words", "tries"),
    [
        ((200, {}, b'{"error": {"code": 429, "message": "slow down"}}'), "http_429", "slow down", 6),
        ((200, {}, b'{"error": {"code": 400, "message": "no"}}'), "http_400", "no", 1),
        ((200, {}, b"<title>Sign in</title>"), "no_completion", "<title>Sign in</title>", 4),
        ((200, {}, b""), "no_completion", "an empty body", 4),
        ((200, {}, b'{"error": "what?"}'), "no_completion", "what?", 4),
        ((302, {"Location": "https://u:s3cret@sso.example/?t=s3cret"}, b""), "http_302",
         "it redirects to https://***@sso.example/?***", 1),
        ((500, {}, b"a\x1b[2J\xc2\x9b\nb"), "http_500", "a\\u001b[2J\\u009b b", 6),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_a_failed_reply_with_the_last_words(endpoint, lasting, reason, words, tries):
    assert replies(endpoint, [lasting], retries=5) == (reason, words)
    assert len(endpoint.asked) == tries


def test_a_key_that_is_refused_in_a_body_stops_the_run(endpoint):
    endpoint.script = {"odd": (200, {}, b'{"error": {"code": "invalid_api_key", "message": "no such key"}}')}
    with pytest.raises(UserError, match=r"refuses the key \(401: no such key\)"):
        openai(endpoint.url)(ask("odd"))


def test_the_name_of_the_limit_and_what_is_left_out_are_settings(endpoint):
    generator = openai(endpoint.url, max_tokens_name="max_completion_tokens", omit=("temperature", "response_format"))
    bodies = [generator._body(request) for request in ask("odd")]
    assert [sorted(body) for body in bodies] == [["max_completion_tokens", "messages", "model"]]
    assert bodies[0]["max_completion_tokens"] == 10
    usual = openai(endpoint.url).identity
    assert openai(endpoint.url, max_tokens_name="max_completion_tokens").identity == usual
    assert generator.identity["sampling"] == {"omit": ["response_format", "temperature"]}


def test_bytes_that_steer_a_terminal_are_in_no_reason_that_is_kept(endpoint, tmp_path):
    endpoint.script = {"odd": (200, {}, completion("no JSON", finish="\x1b[31mstop"))}
    generator = CachedGenerator(openai(endpoint.url), KeyedCache(tmp_path), worth_keeping=worth_keeping)
    assert generator(ask("odd"))[0].error == "no_completion"


def test_a_whole_answer_is_the_same_by_any_way_of_saying_it(endpoint):
    ways = [f"<think>{ITEM}?</think>\n{ITEM}", f"```json\n{ITEM}\n```", f"Here it is:\n{ITEM}\nEnjoy!"]
    for way in ways:
        endpoint.script = {"rice": (200, {}, completion(way, finish="eos_token"))}
        [answer] = ask_twice(openai(endpoint.url), 1, lambda index, is_retry, dropped: ask("rice")[0])
        assert answer.value == ("odd",)
