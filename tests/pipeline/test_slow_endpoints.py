"""Endpoints that are silent, slow or endless: what they cost is bounded, and nothing waits for them at the end."""

import gzip
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import pipeline.llm.endpoint as endpoint_module
import pipeline.llm.openai as module
from data_lake.errors import UserError
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.generator import Reply
from pipeline.llm.openai import OpenAI
from tests.pipeline.raw_endpoint import RawEndpoint, dripping, endless, silent, whole
from tests.pipeline.stub_endpoint import ask

HOME = Path(__file__).resolve().parents[2]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    with RawEndpoint() as server:
        yield server


def openai(url, **settings):
    return OpenAI(LLMConfig(model="m"), OpenAIConfig(base_url=url, **settings))


def named(replies):
    """Return the item that each reply names, or its error."""
    return [reply.error or json.loads(reply.text)["items"][0] for reply in replies]


@pytest.mark.parametrize(
    "say",
    [
        silent,
        dripping(HEAD + b"Content-Length: 1000000\r\n\r\n"),
        dripping(HEAD + b"X-Long: "),
        dripping(b"HTTP/1.1 200 "),
        endless(CHUNKED, b"1\r\n \r\n"),
    ],
    ids=["silent", "body", "header", "status", "tiny chunks"],
)
def test_a_whole_answer_has_to_come_within_the_timeout(endpoint, say):
    endpoint.script = {"slow": say}
    generator = openai(endpoint.url, timeout=0.5, retries=0)
    assert named(generator(ask("slow"))) == ["timeout"]
    assert generator.last_words == "no whole answer within [openai] timeout = 0.5 seconds"


def test_a_request_that_gets_no_answer_is_sent_once_more_where_none_else_is_answered(endpoint):
    endpoint.script = {"slow": silent}
    assert named(openai(endpoint.url, timeout=0.2)(ask("slow"))) == ["timeout"]
    assert endpoint.asked == ["slow", "slow"]


def test_an_endpoint_that_is_silent_to_two_requests_stops_the_run(endpoint):
    prompts = [f"p{number}" for number in range(40)]
    endpoint.script = dict.fromkeys(prompts, silent)
    with pytest.raises(UserError, match=r"is silent: no whole answer within \[openai\] timeout = 0.2 seconds"):
        openai(endpoint.url, timeout=0.2, concurrency=4)(ask(*prompts))
    assert len(endpoint.asked) <= 2 * 4 + 1


def test_of_an_endpoint_that_answers_again_only_the_one_request_is_lost(endpoint):
    endpoint.script = {"b": silent}
    assert named(openai(endpoint.url, timeout=3, concurrency=1)(ask("a", "b", "c"))) == ["a", "timeout", "c"]


@pytest.mark.parametrize(
    ("beginning", "chunk"),
    [
        (HEAD + b"\r\n", b" " * 2**16),
        (CHUNKED, b"10000\r\n" + b" " * 2**16 + b"\r\n"),
        (HEAD + b"Content-Encoding: gzip\r\n\r\n", b"\x1f" * 2**16),
    ],
    ids=["until the end", "chunked", "packed"],
)
def test_a_body_without_end_is_no_completion_and_the_others_come_back(endpoint, beginning, chunk):
    endpoint.script = {"odd": endless(beginning, chunk)}
    generator = openai(endpoint.url, retries=1)
    assert named(generator(ask("odd", "rice"))) == ["no_completion", "rice"]
    assert generator.last_words == "a body of more than 8 MiB"


def test_a_body_that_is_large_once_it_is_unpacked_is_no_completion(endpoint, monkeypatch):
    monkeypatch.setattr(endpoint_module, "LARGEST", 2**20)
    bomb = whole(gzip.compress(b" " * 2**22), headers=["Content-Encoding: gzip"])
    endpoint.script = {"odd": lambda send, over, prompt: send(bomb)}
    generator = openai(endpoint.url, retries=0)
    assert generator(ask("odd")) == [Reply(None, "no_completion")]
    assert generator.last_words == "a body of more than 1 MiB"


def test_a_packed_answer_is_read(endpoint):
    body = gzip.compress(json.dumps({"choices": [{"message": {"content": "{}"}}]}).encode())
    packed = whole(body, headers=["Content-Encoding: gzip"])
    endpoint.script = {"rice": lambda send, over, prompt: send(packed)}
    assert openai(endpoint.url, retries=0)(ask("rice")) == [Reply("{}")]


def test_a_connection_that_breaks_says_how(endpoint):
    endpoint.script = {"odd": lambda send, over, prompt: send(b"SSH-2.0-OpenSSH_9.6\r\n")}
    generator = openai(endpoint.url, retries=0)
    assert generator(ask("odd")) == [Reply(None, "connection")]
    assert generator.last_words.startswith("the connection broke: ")


ASK = """
    import sys
    from pipeline.config import LLMConfig, OpenAIConfig
    from pipeline.llm.openai import OpenAI
    from tests.pipeline.stub_endpoint import ask
    OpenAI(LLMConfig(model="m"), OpenAIConfig(base_url=sys.argv[1]))(ask("refused", *(f"p{n}" for n in range(20))))
"""


@pytest.fixture
def asking(endpoint):
    """A process that asks the endpoint, which is silent to all prompts but "refused", with the default timeout."""
    endpoint.script = dict.fromkeys([f"p{number}" for number in range(20)], silent)
    command = [sys.executable, "-c", textwrap.dedent(ASK), endpoint.url]
    process = subprocess.Popen(command, cwd=HOME, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


def test_after_a_refused_key_nothing_waits_for_the_other_requests(endpoint, asking):
    def refuse(send, over, prompt):
        while len(endpoint.asked) < 21 and not over.wait(0.02):
            pass
        send(whole(b"", "401 Unauthorized"))

    endpoint.script["refused"] = refuse
    _, told = asking.communicate(timeout=120)  # the others would wait for 300 s
    assert asking.returncode == 1
    assert "refuses the key (401)" in told.splitlines()[-1]


def test_after_ctrl_c_nothing_waits_for_a_silent_endpoint(endpoint, asking):
    endpoint.script["refused"] = silent
    end = time.monotonic() + 120
    while len(endpoint.asked) < 21:
        assert time.monotonic() < end
        time.sleep(0.02)
    asking.send_signal(signal.SIGINT)
    _, told = asking.communicate(timeout=120)
    assert asking.returncode == -signal.SIGINT
    assert told.splitlines()[-1] == "KeyboardInterrupt"
