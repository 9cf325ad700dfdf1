import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import pipeline.llm.openai as module
from data_lake.errors import UserError
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.generate import Reply, Request
from pipeline.llm.openai import OpenAI
from pipeline.prompts import items_schema


class Endpoint(ThreadingHTTPServer):
    """A real server: for each prompt a script of (status, headers, seconds before it answers), then 200 for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.scripts, self.seen, self.headers = {}, [], []
        self.times, self.busy, self.busiest, self.lock = [], 0, 0, threading.Lock()
        self.finish, self.usual_delay, self.says = "stop", 0.0, "context length"

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
        answer = {"choices": [choice], "usage": usage} if status == 200 else {"error": {"message": end.says}}
        text = json.dumps(answer).encode()
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
    return [Request("t", ({"role": "user", "content": prompt},), items_schema(1, 20), 10) for prompt in prompts]


def fail(status, times=1, headers=None, delay=0):
    return [(status, headers or {}, delay) for _ in range(times)]


def test_a_request_carries_model_schema_sampling_and_the_key_of_the_environment(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    generate = openai(endpoint.url, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    [reply] = generate(ask("rice"))
    assert reply == Reply('{"items": ["rice"]}', tokens_in=7, tokens_out=2, tokens_cached=4)
    assert endpoint.seen == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "rice"}],
            "max_tokens": 10,
            "temperature": 0.0,
            "response_format": {"type": "json_schema", "json_schema": {"name": "t", "schema": items_schema(1, 20)}},
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]
    assert endpoint.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(vars(generate))
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
    pauses = [[module._pause(attempt, None) for _ in range(50)] for attempt in (0, 1, 20)]
    for low, high, some in ((0.25, 0.5, pauses[0]), (0.5, 1.0, pauses[1]), (30, 60, pauses[2])):
        assert low <= min(some) < max(some) <= high
    assert module._pause(0, "100000") <= 72
    assert module._pause(0, "soon") <= 0.5


def test_the_endpoint_may_say_by_a_date_how_long_to_wait():
    in_a_while = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 18 < module._pause(0, in_a_while) <= 24
    assert module._pause(9, "Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_the_last_words_of_an_endpoint_that_refuses_are_kept_without_the_key(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    endpoint.scripts, endpoint.says = {"rice": fail(422)}, "no grammar\nfor s3cret " + "x" * 500
    generate = openai(endpoint.url)
    assert generate(ask("rice"))[0].error == "http_422"
    assert generate.last_words == ("no grammar for [key] " + "x" * 500)[:200]


def test_once_an_endpoint_is_down_each_further_request_is_tried_once(endpoint):
    endpoint.scripts = {name: fail(503, 9) for name in ("a", "b", "d")} | {"c": []}
    generate = openai(endpoint.url, retries=3, concurrency=1)
    replies = generate(ask("a", "b", "c", "d"))
    assert [reply.error for reply in replies] == ["http_503", "http_503", None, "http_503"]
    assert [body["messages"][0]["content"] for body in endpoint.seen] == [*"aaaa", "b", "c", *"dddd"]


def test_an_answer_that_does_not_come_in_time_is_a_failed_reply(endpoint):
    endpoint.scripts = {"slow": fail(200, 2, delay=1)}
    replies = openai(endpoint.url, timeout=0.2, retries=1)(ask("slow", "rice"))
    assert [reply.error for reply in replies] == ["timeout", None]


def test_a_request_that_is_refused_is_not_sent_again(endpoint):
    endpoint.scripts = {"long": fail(400), "odd": fail(422)}
    replies = openai(endpoint.url)(ask("long", "odd"))
    assert [reply.error for reply in replies] == ["too_long", "too_long"]  # both speak of the context length
    assert len(endpoint.seen) == 2


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
    generate = openai("http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/v1 cannot be reached"):
        generate(ask("rice", "tea"))


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
