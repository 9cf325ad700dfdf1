import gzip
import json

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pipeline.llm.openai as module
from data_lake.errors import UserError
from data_lake.keyed_cache import KeyedCache
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.answers import ask as ask_twice
from pipeline.llm.answers import reply_columns, worth_keeping
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.generator import Reply
from pipeline.llm.openai import OpenAI
from pipeline.llm.reading import BadReply, read_reply
from tests.pipeline.stub_endpoint import StubEndpoint, ask, completion, openai

GOOD = ("bowl", "pan", "rice", "tea")
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.fixture(scope="module")
def endpoint():
    with pytest.MonkeyPatch.context() as patch, StubEndpoint() as server:
        patch.setattr(module, "FIRST_WAIT", 0.001)
        yield server


def reply_to_one(endpoint, generator, status, headers, body):
    """Return the reply to `odd`, which the endpoint answers so, once it is sure that the four others are good."""
    endpoint.script = {"odd": (status, headers, body)}
    prompts = (*GOOD[:2], "odd", *GOOD[2:])
    replies = dict(zip(prompts, generator(ask(*prompts)), strict=True))
    for prompt in GOOD:
        assert replies[prompt] == Reply(json.dumps({"items": [prompt]}), tokens_in=7)
    return replies["odd"]


def kept(folder):
    """Return the items that the cache in a folder holds."""
    return sorted(json.loads(text)["items"][0] for text in pq.read_table(folder)["text"].to_pylist())


@pytest.mark.parametrize(
    ("status", "headers", "body", "error"),
    [
        (200, {"Content-Encoding": "gzip"}, b"no gzip", "no_completion"),
        (200, {"Content-Encoding": "gzip"}, gzip.compress(completion("{}"), mtime=0)[:-12], "no_completion"),
        (200, {}, DEEP, "no_completion"),
        (400, {}, DEEP, "http_400"),
        (500, {}, b'{"error": {"message": ' + b"[" * 900 + b"]" * 900 + b"}}", "http_500"),
        (200, {}, b"", "no_completion"),
        (200, {}, b'{"choices": []}', "no_completion"),
        (200, {}, b'{"choices": {"0": 1}}', "no_completion"),
        (200, {}, b'"choices"', "no_completion"),
        (200, {}, completion("\ud800"), "no_text"),
        (200, {}, completion(None), "no_text"),
        (200, {}, completion(["text"]), "no_text"),
        (200, {}, completion("{}", finish="\ud800"), "no_completion"),
        (200, {}, completion("{}", finish=["stop"]), "no_completion"),
        (200, {}, completion("{}", finish="content_filter"), "content_filter"),
        (200, {"Set-Cookie": "\x80"}, b"", "no_completion"),
        (204, {}, b"", "http_204"),
        (301, {"Location": "h:]]x"}, b"", "no_completion"),
        (400, {"Content-Type": "text/plain; charset=idna"}, b"bad \xff\xfe", "http_400"),
        (400, {}, json.dumps({"error": {"message": "\ud800"}}).encode(), "http_400"),
        (503, {"Retry-After": "Wed, 01 Oct " + "9" * 30 + " 07:28:00 GMT"}, b"", "http_503"),
        (200, {"Content-Length": "nine"}, b"", "connection"),
    ],
)
def test_an_odd_reply_fails_with_its_reason_and_the_others_are_kept(endpoint, tmp_path, status, headers, body, error):
    reply = reply_to_one(endpoint, openai(endpoint.url, tmp_path, retries=1, concurrency=1), status, headers, body)
    assert (reply.text, reply.error) == (None, error)
    assert kept(tmp_path) == sorted(GOOD)


@pytest.mark.parametrize("count", [10**12, 2**31, "12", -1, 1.5, True, None, [7], 10**400, float("nan")])
def test_a_count_of_tokens_that_is_none_is_zero_and_the_answer_stands(endpoint, tmp_path, count):
    usage = {"prompt_tokens": count, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": count}}
    reply = reply_to_one(
        endpoint,
        openai(endpoint.url, tmp_path, retries=1, concurrency=1),
        200,
        {},
        completion('{"items": ["odd"]}', usage=usage),
    )
    assert reply == Reply('{"items": ["odd"]}', tokens_out=3)
    assert kept(tmp_path) == sorted([*GOOD, "odd"])


@pytest.mark.parametrize("usage", [[1], "12", 12, {"prompt_tokens_details": [1]}])
def test_a_usage_that_is_none_counts_nothing_and_the_answer_stands(endpoint, tmp_path, usage):
    reply = reply_to_one(
        endpoint,
        openai(endpoint.url, tmp_path, retries=1, concurrency=1),
        200,
        {},
        completion('{"items": ["odd"]}', usage=usage),
    )
    assert reply == Reply('{"items": ["odd"]}')


def test_the_largest_counts_of_two_replies_fit_into_the_column(endpoint, tmp_path):
    endpoint.script = {"odd": (200, {}, completion("{}", usage={"prompt_tokens": 10**9}))}
    generator = openai(endpoint.url, tmp_path)
    answers = ask_twice(generator, 1, lambda index, is_retry, dropped: ask("odd")[0])
    assert reply_columns(answers, generator.identity)["tokens_in"].to_pylist() == [2 * 10**9]


@pytest.mark.parametrize("status", [401, 404])
def test_what_came_before_the_key_was_refused_is_kept(endpoint, tmp_path, status):
    prompts = [f"item {number:02}" for number in range(40)]
    endpoint.script = {prompt: (status, {}, b"") for prompt in prompts[30:]}
    with pytest.raises(UserError, match=rf"\({status}\)"):
        openai(endpoint.url, tmp_path, concurrency=2)(ask(*prompts))
    assert set(prompts[:28]) <= set(kept(tmp_path)) <= set(prompts[:30])
    endpoint.script, endpoint.asked = {}, []
    openai(endpoint.url, tmp_path)(ask(*prompts))
    assert 10 <= len(endpoint.asked) <= 12


def test_a_key_that_no_header_may_have_is_a_mistake_and_not_shown(endpoint, tmp_path, monkeypatch):
    for key in ("sch\u00fcssel", "s3cret\nkey"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UserError, match="variable OPENAI_API_KEY holds no key") as raised:
            openai(endpoint.url, tmp_path)(ask("rice"))
        assert key not in str(raised.value)


texts = st.text(st.characters(), max_size=8)  # lone surrogates too
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([10**12, "12", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
completions = st.fixed_dictionaries({
    "choices": st.lists(
        st.fixed_dictionaries({
            "message": st.fixed_dictionaries({"content": values}) | values,
            "finish_reason": st.sampled_from(["stop", "length"]) | values,
        }) | values,
        min_size=1, max_size=2,
    ) | values,
    "usage": st.dictionaries(
        st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details"]),
        values | st.fixed_dictionaries({"cached_tokens": values}),
    ) | values,
})  # fmt: skip
bodies = (
    st.binary(max_size=40)
    | (completions | values).map(lambda value: json.dumps(value).encode())
    | completions.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass"))
)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=12)
headers = st.dictionaries(
    st.sampled_from(["Content-Encoding", "Content-Type", "Location", "Retry-After", "Set-Cookie"]),
    printable | st.sampled_from(["gzip", "deflate", "text/plain; charset=base64", "//[", "0.01"]),
    max_size=2,
)


@pytest.fixture(scope="module")
def one_client(endpoint):
    return OpenAI(LLMConfig(model="m"), OpenAIConfig(base_url=endpoint.url, retries=1, concurrency=2))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([200, 200, 200, 200, 302, 400, 422, 500]), headers, bodies)
def test_whatever_one_request_is_answered_the_four_others_come_back_and_are_kept(
    endpoint, one_client, tmp_path_factory, status, headers, body
):
    folder = tmp_path_factory.mktemp("kept")
    generator = CachedGenerator(one_client, KeyedCache(folder), worth_keeping=worth_keeping)
    reply = reply_to_one(endpoint, generator, status, headers, body)
    assert (reply.text is None) != (reply.error is None)
    assert 4 <= pq.read_table(folder).num_rows <= 5


@given(values.map(json.dumps) | st.text())
@example(DEEP.decode())
@example('{"items": ["\ud800"]}')
@example('{"items": ["\\ud800"]}')
@pytest.mark.parametrize("is_judged", [True, False])
def test_a_text_is_one_item_or_a_bad_reply_whatever_it_is(is_judged, text):
    try:
        [item] = read_reply(text, ask("tea")[0], is_judged).texts
    except BadReply:
        return
    assert item
    assert item == item.strip()
