import json
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import pipeline.llm.openai as module
from data_lake.errors import UserError
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.generator import Reply, Request
from pipeline.llm.openai import OpenAI
from pipeline.llm.prompts import items_schema
from tests.pipeline.worlds import items_question


class Endpoint(ThreadingHTTPServer):
    """A real server: for each prompt a script of (status, headers, seconds before it answers), then 200 for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.scripts, self.seen, self.headers = {}, [], []
        self.times, self.busy, self.busiest, self.lock = [], 0, 0, threading.Lock()
        self.finish, self.usual_delay = "stop", 0.0
        self.refusal = json.dumps({"error": {"message": "context length"}})

    def handle_error(self, *_):
        """A client that stopped waiting is no news."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, end = body["messages"][-1]["content"], self.server
        with end.lock:
            end.seen.append(body)
            end.headers.append(dict(self.headers))
            end.times.append(time.monotonic())
            end.busy += 1
            end.busiest = max(end.busiest, end.busy)
            status, headers, delay = (end.scripts.get(prompt, []) and end.scripts[prompt].pop(0)) or (200, {}, 0)
        time.sleep(delay or end.usual_delay)
        with end.lock:
            end.busy -= 1
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
        choice = {"message": {"content": json.dumps({"items": [prompt]})}, "finish_reason": end.finish}
        text = (json.dumps({"choices": [choice], "usage": usage}) if status == 200 else end.refusal).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    server = Endpoint()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def openai(url, llm=None, **settings):
    return OpenAI(LLMConfig(model="m", **(llm or {})), OpenAIConfig(base_url=url, **settings))


def ask(*prompts):
    return [
        Request(items_question(), ({"role": "user", "content": prompt},), items_schema(1, 20), 10) for prompt in prompts
    ]


def fail(status, times=1, headers=None, delay=0):
    return [(status, headers or {}, delay) for _ in range(times)]


def test_a_request_for_plain_text_carries_no_schema(endpoint):
    [request] = ask("rice")
    openai(endpoint.url)([replace(request, is_text=True)])
    assert "response_format" not in endpoint.seen[0]


def test_a_request_carries_model_schema_sampling_and_the_key_of_the_environment(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    generator = openai(endpoint.url, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    [reply] = generator(ask("rice"))
    assert reply == Reply('{"items": ["rice"]}', tokens_in=7, tokens_out=2, tokens_cached=4)
    assert endpoint.seen == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "rice"}],
            "max_tokens": 10,
            "temperature": 0.0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "generate_items", "schema": items_schema(1, 20)},
            },
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]
    assert endpoint.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(vars(generator))
    openai(endpoint.url, llm={"temperature": 0.5, "seed": 3})(ask("rice"))
    assert {name: endpoint.seen[1][name] for name in ("temperature", "top_p", "seed")} == {
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": 3,
    }


def test_without_a_key_none_is_sent(endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    openai(endpoint.url)(ask("rice"))
    assert "Authorization" not in endpoint.headers[0]


def test_no_more_requests_are_under_way_than_the_settings_allow(endpoint):
    endpoint.usual_delay = 0.05
    prompts = [f"p{number}" for number in range(20)]
    replies = openai(endpoint.url, concurrency=4)(ask(*prompts))
    assert [json.loads(reply.text)["items"][0] for reply in replies] == prompts
    assert endpoint.busiest == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_asked_again_and_a_busy_one_for_ever_is_a_failed_reply(endpoint, status):
    endpoint.scripts = {"soon": fail(status, 2), "never": fail(status, 9)}
    replies = openai(endpoint.url, retries=3)(ask("soon", "never", "at once"))
    assert [reply.error for reply in replies] == [None, f"http_{status}", None]
    assert len(endpoint.seen) == 3 + 4 + 1


def test_the_endpoint_says_how_long_to_wait(endpoint):
    endpoint.scripts = {"rice": fail(429, headers={"Retry-After": "0.4"})}
    assert openai(endpoint.url)(ask("rice"))[0].error is None
    assert 0.4 <= endpoint.times[1] - endpoint.times[0] < 2


def test_pauses_double_up_to_a_minute_and_are_spread():
    pauses = [[module.pause(attempt, None) for _ in range(50)] for attempt in (0, 1, 20)]
    for low, high, some in ((0.25, 0.5, pauses[0]), (0.5, 1.0, pauses[1]), (30, 60, pauses[2])):
        assert low <= min(some) < max(some) <= high
    for odd in ("", "soon", "Wed, 99 Oct 2026 07:28:00 GMT"):
        assert 0.25 <= module.pause(0, odd) <= 0.5


@pytest.mark.parametrize(
    ("ahead", "low", "high"), [(-3600, 0, 0), (30, 28, 36), (3600, 60, 72)], ids=["past", "soon", "late"]
)
def test_the_endpoint_may_say_how_long_to_wait_by_a_date(ahead, low, high):
    for retry_after in (formatdate(time.time() + ahead, usegmt=True), formatdate(time.time() + ahead)):  # GMT, -0000
        assert low <= module.pause(0, retry_after) <= high


@pytest.mark.parametrize(
    ("retry_after", "low", "high"), [("-5", 0, 0), ("nan", 0, 0), ("10", 10, 12), ("100000", 60, 72), ("inf", 60, 72)]
)
def test_what_the_endpoint_asks_for_is_waited_up_to_a_minute(retry_after, low, high):
    assert low <= module.pause(0, retry_after) <= high


def test_by_default_a_request_outlasts_a_restart_of_three_minutes(monkeypatch):
    least, most = (sum(_pauses(monkeypatch, share)) for share in (0.5, 1))
    assert (least, most) == (181.75, 363.5)


def _pauses(monkeypatch, share):
    monkeypatch.setattr(module.random, "uniform", lambda low, high: share)
    return [module.pause(attempt, None) for attempt in range(OpenAIConfig().retries)]


def test_an_endpoint_that_is_down_costs_one_request_its_tries_and_all_others_one(endpoint):
    endpoint.scripts = {"a": fail(503, 9), "b": fail(503, 9), "c": fail(503, 9)}
    replies = openai(endpoint.url, concurrency=1, retries=3)(ask("a", "b", "c"))
    assert [reply.error for reply in replies] == ["http_503"] * 3
    assert [body["messages"][0]["content"] for body in endpoint.seen] == [*"aaaa", "b", "c"]


def test_an_endpoint_that_is_up_again_is_waited_for_again(endpoint):
    endpoint.scripts = {"a": fail(503, 9), "b": fail(503, 9), "d": fail(503, 2)}
    replies = openai(endpoint.url, concurrency=1, retries=3)(ask("a", "b", "c", "d"))
    assert [reply.error for reply in replies] == ["http_503", "http_503", None, None]


def test_a_request_that_fails_while_others_are_answered_says_nothing_of_the_endpoint(endpoint):
    endpoint.scripts = {"a": fail(500, 9), "x": fail(503, 2)}
    endpoint.usual_delay = 0.01
    prompts = ["a", *(f"b{number}" for number in range(40)), "x"]
    replies = openai(endpoint.url, concurrency=2, retries=3)(ask(*prompts))
    assert [prompt for prompt, reply in zip(prompts, replies, strict=True) if reply.error] == ["a"]


def test_an_answer_that_does_not_come_in_time_is_a_failed_reply(endpoint):
    endpoint.scripts = {"slow": fail(200, 2, delay=1)}
    replies = openai(endpoint.url, timeout=0.2, retries=1)(ask("slow", "rice"))
    assert [reply.error for reply in replies] == ["timeout", None]


def test_a_request_that_is_refused_is_not_sent_again(endpoint):
    endpoint.scripts = {"long": fail(400), "odd": fail(422)}
    replies = openai(endpoint.url)(ask("long", "odd"))
    assert [reply.error for reply in replies] == ["too_long", "too_long"]  # both speak of the context length
    assert len(endpoint.seen) == 2


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "no such\\n grammar"}}', "no such grammar"),
        ('{"detail": "bad"}', '{"detail": "bad"}'),
        ("[1]", "[1]"),
        ("<html>" + "x" * 300, "<html>" + "x" * 194),
        ('{"error": {"message": "who is s3cret?"}}', "who is [key]?"),
    ],
)
def test_what_the_endpoint_says_of_a_refusal_is_kept_in_one_short_line_without_the_key(
    endpoint, monkeypatch, status, body, words
):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    endpoint.scripts, endpoint.refusal = {"rice": fail(status)}, body
    generator = openai(endpoint.url, retries=0)
    assert generator(ask("rice", "tea"))[0].error == f"http_{status}"
    assert generator.last_words == words


@pytest.mark.parametrize(("finish", "reason"), [("length", "cut"), ("content_filter", "content_filter")])
def test_an_answer_that_did_not_end_by_itself_is_no_answer(endpoint, finish, reason):
    endpoint.finish = finish
    assert openai(endpoint.url)(ask("rice")) == [Reply(None, reason, 7, 2, 4)]


@pytest.mark.parametrize(("status", "words"), [(401, "refuses"), (403, "OPENAI_API_KEY"), (404, "no model")])
def test_what_every_request_would_run_into_stops_the_run(endpoint, monkeypatch, status, words):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    endpoint.scripts = {f"p{number}": fail(status, 9) for number in range(100)}
    with pytest.raises(UserError, match=words) as raised:
        openai(endpoint.url, concurrency=2)(ask(*endpoint.scripts))
    assert len(endpoint.seen) < 100
    assert "s3cret" not in str(raised.value)


def test_an_endpoint_that_is_not_there_stops_the_run():
    generator = openai("http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/v1 cannot be reached"):
        generator(ask("rice", "tea"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is no URL"),
        ("localhost:8000", "is no URL"),
        ("http://u:s3cret@h/v1", "a password"),
        ("http://h/v1?k=s3cret", "query"),
    ],
)
def test_a_url_that_is_none_or_carries_a_secret_is_refused(url, words):
    with pytest.raises(UserError, match=words) as raised:
        openai(url)
    assert "s3cret" not in str(raised.value)


def test_the_identity_is_the_model_and_its_sampling_wherever_it_is_served():
    here = openai("http://one/v1", llm={"revision": "Qwen3-8B of May"}).identity
    assert here == openai("http://two/v1", llm={"revision": "Qwen3-8B of May"}, concurrency=1).identity
    assert here == {
        "backend": "openai", "model": "m", "revision": "Qwen3-8B of May", "sampling": {"temperature": 0.0},
    }  # fmt: skip
    assert here != openai("http://one/v1").identity
    assert here != openai("http://one/v1", llm={"revision": "Qwen3-8B of May"}, extra_body={"top_k": 1}).identity


@pytest.mark.parametrize("key", ["s3cret", "hf_s3cret"])
def test_a_key_in_the_place_of_its_variable_is_not_shown(endpoint, key):
    endpoint.scripts = {"rice": fail(401)}
    with pytest.raises(UserError, match="that key_variable names: it is not set") as raised:
        openai(endpoint.url, key_variable=key)(ask("rice"))
    assert "s3cret" not in str(raised.value)


def test_an_endpoint_that_never_answered_is_given_up_sooner(monkeypatch):
    waits = []
    monkeypatch.setattr(module, "pause", lambda attempt, asked: waits.append(attempt) or 0)
    with pytest.raises(UserError, match="cannot be reached"):
        openai("http://127.0.0.1:9/v1")(ask("rice"))
    assert waits == [0, 1, 2, 3, 4, 5]


def test_an_endpoint_that_answered_before_is_waited_for_with_every_try(endpoint, monkeypatch):
    generator, waits = openai(endpoint.url, retries=9), []
    generator(ask("rice"))
    generator.close()
    endpoint.shutdown()
    endpoint.server_close()
    monkeypatch.setattr(module, "pause", lambda attempt, asked: waits.append(attempt) or 0)
    with pytest.raises(UserError, match="cannot be reached"):
        generator(ask("tea"))
    assert waits == list(range(9))
