import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import pipeline.llm.cached_generator as module
from data_lake.errors import UserError
from data_lake.keyed_cache import KeyedCache
from pipeline.config import LLMConfig
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.generator import Reply, no_listener
from pipeline.llm.vllm import VLLM
from pipeline.processes.worker import Worker, WorkerDied
from tests.pipeline.stub_endpoint import StubEndpoint, ask, openai

PROMPTS = tuple(f"item {number:03}" for number in range(200))
HOME = Path(__file__).resolve().parents[2]


class Replies:
    """A generator of which a test says what it does with `on_reply`."""

    identity = {"model": "replies"}  # noqa: RUF012

    def __init__(self, replies):
        self._replies = replies

    def __call__(self, requests, on_reply=no_listener):
        return [self._replies(index, request, on_reply) for index, request in enumerate(requests)]


def kept(folder):
    """Return how many replies a folder holds."""
    return pq.read_table(folder).num_rows if list(folder.glob("*.parquet")) else 0


def await_that(happens, seconds=60):
    """Wait until something has happened."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def child():
    """Start Python code with arguments in a process of its own; whatever is left at the end is killed."""
    started = []

    def start(code, *arguments):
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=HOME, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


ASK_ENDPOINT = """
    import sys
    from tests.pipeline.stub_endpoint import ask, openai
    from tests.pipeline.test_durable_replies import PROMPTS
    openai(sys.argv[1], sys.argv[2], concurrency=4)(ask(*PROMPTS))
"""


@pytest.mark.parametrize(("end", "lost"), [(signal.SIGKILL, 3.0), (signal.SIGINT, 1.0)], ids=["killed", "Ctrl-C"])
def test_a_run_that_ends_in_the_middle_of_a_call_has_kept_all_but_its_last_seconds(tmp_path, child, end, lost):
    with StubEndpoint(delay=0.1) as endpoint:
        process = child(ASK_ENDPOINT, endpoint.url, tmp_path)
        await_that(lambda: len(endpoint.answered) >= 160)
        ended = time.monotonic()
        process.send_signal(end)
        assert process.wait(20) == -end
        surely = {prompt for prompt, answered in endpoint.answered.items() if answered < ended - lost}
        assert len(surely) >= 20
        endpoint.asked, endpoint.delay = [], 0
        replies = openai(endpoint.url, tmp_path)(ask(*PROMPTS))
    assert [json.loads(reply.text)["items"][0] for reply in replies] == list(PROMPTS)
    assert len(set(endpoint.asked)) == len(endpoint.asked) >= 40 - 4
    assert not surely & set(endpoint.asked)


def test_replies_that_came_before_an_exception_are_kept_and_the_exception_goes_on(tmp_path):
    def two_and_a_crash(index, request, on_reply):
        if index == 2:
            raise RuntimeError("out of memory")
        on_reply(index, Reply("tea"))
        return Reply("tea")

    with pytest.raises(RuntimeError, match="out of memory"):
        CachedGenerator(Replies(two_and_a_crash), KeyedCache(tmp_path))(ask("a", "b", "c"))
    assert kept(tmp_path) == 2


def test_ctrl_c_while_the_last_replies_are_written_loses_none(tmp_path):
    class Interrupted(KeyedCache):
        def put(self, table):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # a write takes a while
            super().put(table)

    def reply(index, request, on_reply):
        on_reply(index, Reply("tea"))
        return Reply("tea")

    with pytest.raises(KeyboardInterrupt):
        CachedGenerator(Replies(reply), Interrupted(tmp_path))(ask("a", "b", "c"))
    assert kept(tmp_path) == 3


def test_a_reply_is_told_and_on_disk_while_others_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    told = []

    def slowly(index, request, on_reply):
        if index == 2:
            assert told == [(0, Reply("a")), (3, Reply("a")), (1, Reply("b"))]
            await_that(lambda: kept(tmp_path) == 2)
        reply = Reply(request.messages[0]["content"])
        on_reply(index, reply)
        return reply

    once = CachedGenerator(Replies(slowly), KeyedCache(tmp_path))
    once(ask("a", "b", "c", "a"), lambda *heard: told.append(heard))
    assert told[3:] == [(2, Reply("c"))]
    told.clear()
    once(ask("c", "b"), lambda *heard: told.append(heard))
    assert sorted(told, key=str) == [(0, Reply("c")), (1, Reply("b"))]


class Disk(KeyedCache):
    """A cache on a disk with room for two parts, or more once `room` is set."""

    room = 2

    def put(self, table):
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().put(table)


def test_on_a_full_disk_no_more_is_asked_and_what_was_written_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    disk, asked = Disk(tmp_path), []

    def in_parts(index, request, on_reply):
        asked.append(index)
        on_reply(index, Reply("tea"))
        await_that(lambda: disk.room < 0 or kept(tmp_path) > index)
        return Reply("tea")

    full = rf"{tmp_path}: \d new replies cannot be written \(.*No space left.*\)\. Make room"
    with pytest.raises(UserError, match=full):
        CachedGenerator(Replies(in_parts), disk)(ask(*PROMPTS))
    assert kept(tmp_path) == 2
    assert len(asked) <= 4


def test_a_disk_that_has_room_again_at_the_end_gets_what_was_left(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    disk = Disk(tmp_path)
    disk.room = 0

    def in_parts(index, request, on_reply):
        on_reply(index, Reply("tea"))
        await_that(lambda: disk.room < 0)
        disk.room = 200
        time.sleep(0.1)
        return Reply("tea")

    with pytest.raises(UserError, match="1 new replies cannot be written"):
        CachedGenerator(Replies(in_parts), disk)(ask("a", "b", "c"))
    assert kept(tmp_path) == 2


def test_a_disk_that_is_full_at_the_end_of_a_call_is_told(tmp_path):
    disk = Disk(tmp_path)
    disk.room = 0
    with pytest.raises(UserError, match="3 new replies cannot be written"):
        CachedGenerator(Replies(lambda index, request, on_reply: on_reply(index, Reply("tea"))), disk)(
            ask("a", "b", "c")
        )


STUB = """
    import os, signal, time
    from pipeline.processes.worker import Link

    link = Link()
    rank = link.receive()["rank"]
    while (message := link.receive()) is not None:
        for place, request in reversed([*enumerate(message["requests"])]):
            title = request["messages"][0]["content"]
            if title.endswith("poison"):
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGKILL)
            said = {"text": f"{title} from {rank}", "error": None, "tokens_in": 10**12, "tokens_out": 1}
            link.send({"replies": [[place, said]]})
            time.sleep(0.3 if title.endswith("slow") else 0)
"""


@pytest.fixture
def two_engines(tmp_path, monkeypatch):
    """A VLLM of two engines, each a process that answers its last request first, with the prompt and its number."""
    (tmp_path / "stub_engine.py").write_text(textwrap.dedent(STUB))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)  # nothing here needs vLLM
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "config.json").write_text("{}")
    generate = VLLM(LLMConfig(model=str(tmp_path), data_parallel_size=2))
    generate._engines = [Worker("stub_engine", {"rank": rank}) for rank in range(2)]
    yield generate
    generate.close(patience=0)


def test_replies_are_told_in_the_order_in_which_two_engines_finish_them(two_engines):
    two_engines(ask("a", "b"))  # both are up
    told = []
    replies = two_engines(ask("d", "a slow", "b slow", "c"), lambda *heard: told.append(heard))
    assert [reply.text for reply in replies] == ["d from 1", "a slow from 0", "b slow from 0", "c from 1"]
    assert replies[0] == Reply("d from 1", tokens_out=1)
    assert [index for index, _ in told][-1] == 1
    assert {index for index, _ in told[:3]} == {0, 2, 3}
    assert [replies[index] for index, _ in told] == [reply for _, reply in told]


def test_replies_that_came_before_an_engine_died_are_kept(two_engines, tmp_path):
    folder = tmp_path / "kept"
    with pytest.raises(WorkerDied, match="SIGKILL"):
        CachedGenerator(two_engines, KeyedCache(folder))(ask("a poison", "b", "c", "q", "r"))
    assert sorted(pq.read_table(folder)["text"].to_pylist()) == ["b from 0", "c from 0", "q from 1", "r from 1"]


ASK_ENGINE = """
    import sys
    from dataclasses import replace
    from pathlib import Path
    from data_lake.keyed_cache import KeyedCache
    from pipeline.config import LLMConfig
    from pipeline.llm.cached_generator import CachedGenerator
    from pipeline.llm.vllm import VLLM
    from tests.pipeline.stub_endpoint import ask
    vllm = VLLM(LLMConfig(model=sys.argv[1], max_model_len=1024))
    requests = [replace(each, max_tokens=64) for each in ask(*(f"item {number}" for number in range(2000)))]
    CachedGenerator(vllm, KeyedCache(Path(sys.argv[2])))(requests)
"""


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_killed_run_of_vllm_has_kept_replies_while_its_engine_was_busy_with_others(tiny_llm, tmp_path, child):
    process = child(ASK_ENGINE, tiny_llm, tmp_path)
    await_that(lambda: kept(tmp_path) or process.poll() is not None, seconds=400)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < kept(tmp_path) < 2000
    assert set(pq.read_table(tmp_path)["error"].to_pylist()) == {None}
