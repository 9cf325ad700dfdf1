import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipeline.llm.openai as openai_module
import pipeline.llm.openai_batch as module
from data_lake.errors import UserError
from pipeline.config import EnrichConfig, LLMConfig, OpenAIConfig
from pipeline.llm.backends import open_generator
from pipeline.llm.generator import Reply, prompt_hash
from pipeline.llm.openai import OpenAI
from pipeline.llm.openai_batch import OpenAIBatch
from pipeline.llm.prompts import items_schema
from tests.pipeline.batch_endpoint import BatchEndpoint, batch
from tests.pipeline.raw_endpoint import RawEndpoint, silent
from tests.pipeline.stub_endpoint import ask, completion

HOME = Path(__file__).resolve().parents[2]


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(openai_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(module, "FIRST_POLL", 0.01)
    with BatchEndpoint() as server:
        yield server


def named(replies):
    """Return the item that each reply names, or its error."""
    return [reply.error or json.loads(reply.text)["items"][0] for reply in replies]


def test_a_call_is_one_file_and_one_batch_and_its_answers_come_in_the_order_of_the_requests(
    endpoint, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    generator = batch(endpoint.url, tmp_path)
    told = {}
    requests = ask("rice", "tea", "rice", "wok")
    replies = generator(requests, lambda index, reply: told.setdefault(index, reply))
    assert named(replies) == ["rice", "tea", "rice", "wok"]  # the endpoint answers in another order
    assert told == dict(enumerate(replies))
    assert endpoint.sent == (1, 1)
    assert set(endpoint.keys) == {"Bearer s3cret"}
    [lines] = endpoint.uploaded.values()
    assert lines[0] == {
        "custom_id": prompt_hash(requests[0], generator.identity),
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "m",
            "messages": [{"role": "user", "content": "rice"}],
            "max_tokens": 10,
            "temperature": 0.0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "generate_items", "schema": items_schema(1, 20)},
            },
        },
    }
    started = endpoint.batches["batch_0"]
    assert (started["endpoint"], started["completion_window"]) == ("/v1/chat/completions", "24h")


def test_the_settings_choose_batches_and_a_reply_is_the_same_with_and_without_them(endpoint):
    def opened(is_batch):
        openai = OpenAIConfig(base_url=endpoint.url, batch=is_batch)
        settings = SimpleNamespace(enrich=EnrichConfig(generator="openai"), llm=LLMConfig(model="m"), openai=openai)
        return open_generator("openai", settings, lambda: None)

    alone, batched = opened(False), opened(True)
    assert (type(alone), type(batched)) == (OpenAI, OpenAIBatch)
    assert (alone.identity, alone.fingerprint) == (batched.identity, batched.fingerprint)


ASK = """
    import sys
    import pipeline.llm.openai_batch as module
    from tests.pipeline.batch_endpoint import batch
    from tests.pipeline.stub_endpoint import ask
    module.FIRST_POLL = 0.01
    batch(sys.argv[1], sys.argv[2])(ask("rice", "tea"))
"""


def test_a_run_after_one_that_was_killed_while_it_waited_takes_its_batch_and_sends_nothing(endpoint, tmp_path):
    endpoint.statuses = ["in_progress"]
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(ASK), endpoint.url, str(tmp_path)], cwd=HOME)
    end = time.monotonic() + 60
    while ("GET", "batches/batch_0") not in endpoint.calls:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.wait()
    endpoint.batches["batch_0"]["left"] = ["in_progress", "completed"]
    endpoint.statuses = ["completed"]
    assert named(batch(endpoint.url, tmp_path)(ask("tea", "rice"))) == ["tea", "rice"]
    assert endpoint.sent == (1, 1)


def test_of_a_call_only_what_no_batch_holds_is_sent(endpoint, tmp_path):
    endpoint.refusals = {("GET", "batches/batch_0"): [(500, {})]}
    with pytest.raises(UserError, match="answers 500 to GET batches/batch_0"):
        batch(endpoint.url, tmp_path, retries=0)(ask("rice", "tea"))
    assert named(batch(endpoint.url, tmp_path)(ask("wok", "rice", "tea"))) == ["wok", "rice", "tea"]
    assert [[line["body"]["messages"][-1]["content"] for line in lines] for lines in endpoint.uploaded.values()] == [
        ["rice", "tea"],
        ["wok"],
    ]


def test_a_batch_that_the_endpoint_no_longer_knows_is_sent_again(endpoint, tmp_path):
    endpoint.refusals = {("GET", "batches/batch_0"): [(500, {})]}
    with pytest.raises(UserError, match="answers 500"):
        batch(endpoint.url, tmp_path, retries=0)(ask("rice"))
    endpoint.refusals = {("GET", "batches/batch_0"): [(404, {})]}
    assert named(batch(endpoint.url, tmp_path)(ask("rice"))) == ["rice"]
    assert endpoint.sent == (2, 2)


def test_rows_that_failed_have_their_reasons_and_are_asked_again_in_the_next_run(endpoint, tmp_path):
    too_long = (400, {"error": {"message": "the maximum context length is 5 tokens"}})
    refused = (422, {"error": {"message": "no such\n grammar"}})
    endpoint.errors = {"long": too_long, "slow": "request_timeout", "odd": "what is this?", "wrong": refused}
    endpoint.unanswered = {"lost"}
    generator = batch(endpoint.url, tmp_path)
    replies = generator(ask("rice", "long", "slow", "odd", "wrong", "lost"))
    assert named(replies) == ["rice", "too_long", "request_timeout", "batch_error", "http_422", "no_completion"]
    generator.close()
    endpoint.errors, endpoint.unanswered = {}, set()
    again = batch(endpoint.url, tmp_path)
    assert named(again(ask("rice", "long", "wrong"))) == ["rice", "long", "wrong"]
    assert [len(lines) for lines in endpoint.uploaded.values()] == [6, 2]


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_a_batch_that_ended_early_keeps_what_it_answered(endpoint, tmp_path, status):
    endpoint.statuses, endpoint.unanswered = ["in_progress", status], {"tea"}
    endpoint.errors = {"wok": "batch_expired"}
    generator = batch(endpoint.url, tmp_path)
    assert named(generator(ask("rice", "tea", "wok"))) == ["rice", f"batch_{status}", "batch_expired"]
    generator.close()
    endpoint.statuses, endpoint.unanswered, endpoint.errors = ["completed"], set(), {}
    assert named(batch(endpoint.url, tmp_path)(ask("rice", "tea", "wok"))) == ["rice", "tea", "wok"]
    assert [len(lines) for lines in endpoint.uploaded.values()] == [3, 2]


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ({"data": [{"code": "model_not_found", "message": "There is no s3cret m"}]}, "There is no [key] m"),
        (None, '{"error": null}'),
    ],
)
def test_a_batch_that_was_refused_fails_all_its_rows_and_says_why_without_the_key(
    endpoint, tmp_path, monkeypatch, problem, words
):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    endpoint.statuses, endpoint.problem = ["failed"], problem
    generator = batch(endpoint.url, tmp_path)
    assert named(generator(ask("rice", "tea"))) == ["batch_failed"] * 2
    assert generator.last_words == words


def test_an_answer_that_did_not_end_by_itself_is_no_answer(endpoint, tmp_path):
    endpoint.finish = "length"
    assert batch(endpoint.url, tmp_path)(ask("rice")) == [Reply(None, "cut", 7)]


def test_ask_again_asks_again(endpoint, tmp_path):
    for _ in range(2):
        generator = batch(endpoint.url, tmp_path, ask_again=True)
        generator(ask("rice"))
        generator.close()
    assert endpoint.sent == (2, 2)


def test_a_busy_endpoint_is_asked_again(endpoint, tmp_path):
    endpoint.refusals = {
        ("POST", "files"): [(429, {}), (200, {"error": {"code": 429}})],
        ("POST", "batches"): [(503, {})],
        ("GET", "batches/batch_0"): [(500, {}), (502, {})],
        ("GET", "files/batch_0-output/content"): [(503, {})],
    }
    assert named(batch(endpoint.url, tmp_path, retries=2)(ask("rice"))) == ["rice"]
    assert len(endpoint.batches) == 1


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (("POST", "files"), 401, "refuses the key"),
        (("POST", "files"), 404, r"refuses POST files \(404: no \[key\] here\).*batch = false"),
        (("POST", "batches"), 400, r"refuses POST batches \(400: no \[key\] here\)"),
        (("GET", "batches/batch_0"), 403, "refuses the key"),
        (("GET", "files/batch_0-output/content"), 400, "refuses GET files/batch_0-output/content"),
    ],
)
def test_what_stops_a_batch_stops_the_run_without_the_key(endpoint, tmp_path, monkeypatch, call, status, words):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    endpoint.refusals = {call: [(status, {"error": {"message": "no s3cret here"}})]}
    with pytest.raises(UserError, match=words) as raised:
        batch(endpoint.url, tmp_path)(ask("rice"))
    assert "s3cret" not in str(raised.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def test_a_batch_without_a_status_is_not_waited_for(endpoint, tmp_path):
    endpoint.statuses = [None]
    with pytest.raises(UserError, match="refuses GET batches/batch_0"):
        batch(endpoint.url, tmp_path)(ask("rice"))


def test_a_silent_endpoint_is_asked_for_a_batch_twice(endpoint, tmp_path):
    with RawEndpoint() as raw:
        raw.script = {"file": silent}
        with pytest.raises(UserError, match=r"broke off POST files \(no whole answer within"):
            batch(raw.url, tmp_path, timeout=0.2)(ask("rice"))
        assert raw.asked == ["file", "file"]


def test_a_batch_whose_start_broke_off_is_not_started_twice(endpoint, tmp_path):
    endpoint.silent = {("POST", "batches")}
    with pytest.raises(UserError, match="may have started a batch that is not known here"):
        batch(endpoint.url, tmp_path)(ask("rice"))
    assert endpoint.sent == (1, 1)


def test_odd_lines_of_an_output_file_fail_their_own_rows_alone(endpoint, tmp_path):
    requests = ask("rice", "tea", "wok")
    keys = [prompt_hash(request, batch(endpoint.url, tmp_path).identity) for request in requests]
    body = json.loads(completion('{"items": ["rice"]}'))
    lines = [
        {"custom_id": keys[0], "response": {"status_code": 200, "body": body}},
        {"custom_id": keys[1], "response": {"status_code": 200, "body": [1]}},
        {"custom_id": keys[2], "response": "none", "error": "none"},
        {"custom_id": ["a list"], "response": {"status_code": 200}},
        {"custom_id": "of nobody", "response": None},
        [1],
        3,
    ]
    content = b"\n".join([b"no json", b"\xff", *(json.dumps(line).encode() for line in lines)])
    endpoint.refusals = {("GET", "files/batch_0-output/content"): [(200, content)]}
    assert named(batch(endpoint.url, tmp_path)(requests)) == ["rice", "no_completion", "batch_error"]


def test_an_endpoint_that_is_not_there_stops_the_run(tmp_path):
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/v1 cannot be reached"):
        batch("http://127.0.0.1:9/v1", tmp_path, retries=0)(ask("rice"))


def test_requests_are_divided_into_files_that_the_provider_takes(monkeypatch):
    lines = [(name, b"x" * 9) for name in "abcde"]
    monkeypatch.setattr(module, "MOST_REQUESTS", 2)
    assert [list(file) for file in module.files(lines)] == [["a", "b"], ["c", "d"], ["e"]]
    monkeypatch.setattr(module, "MOST_BYTES", 19)  # one line and its end take 10
    assert [list(file) for file in module.files(lines)] == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert list(module.files([])) == []


def test_several_batches_of_a_call_are_waited_for_together(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_REQUESTS", 1)
    assert named(batch(endpoint.url, tmp_path)(ask("rice", "tea", "wok"))) == ["rice", "tea", "wok"]
    started = [endpoint.calls.index(("GET", f"batches/batch_{number}")) for number in range(3)]
    assert max(started) < endpoint.calls.index(("GET", "files/batch_0-output/content"))
    assert endpoint.sent == (3, 3)
