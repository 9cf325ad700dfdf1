import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow as pa
import pytest

import pipeline.processes.worker
from pipeline.config import EmbedConfig
from pipeline.processes.worker import Worker, WorkerDied
from pipeline.vectors.embedding import EmbedProcess

CHILD = """
    import os, subprocess, sys, time
    from pipeline.processes.worker import Link

    link = Link()
    config = link.receive()
    print("a library talks to stdout")
    while (message := link.receive()) is not None:
        if not isinstance(message, dict):
            link.send(message)
        elif "raise" in message:
            raise ValueError(message["raise"])
        elif "sleep" in message:
            time.sleep(message["sleep"])
            link.send({"slept": message["sleep"]})
        elif "spawn" in message:
            link.send({"pid": os.getpid(), "grandchild": subprocess.Popen(["sleep", "1000"]).pid})
        elif "variable" in message:
            link.send({"value": os.environ.get(message["variable"])})
        else:
            link.send({"config": config, "message": message})
    if config.get("stays"):
        time.sleep(1000)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "some_child.py").write_text(textwrap.dedent(CHILD))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    workers = []

    def make(**config):
        workers.append(Worker("some_child", config))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close(patience=0)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends between opening and reading
        return False


def ends_within(seconds, *pids):
    until = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(is_running(pid) for pid in pids)


def test_a_child_gets_its_config_first_and_answers_json_and_tables(child):
    worker = child(size=3)
    assert worker.pid is None
    assert worker.ask({"text": "crème\n"}) == {"config": {"size": 3}, "message": {"text": "crème\n"}}
    large = pa.table({"vector": pa.array([[0.5] * 384] * 2000, pa.list_(pa.float32(), 384))})
    assert worker.ask(large).equals(large)


def test_close_ends_the_child_and_the_next_message_starts_another(child):
    worker = child()
    first = worker.ask({"spawn": True})
    worker.close()
    worker.close()
    assert not any(is_running(pid) for pid in first.values())
    assert worker.pid is None
    assert worker.ask({"spawn": True})["pid"] != first["pid"]


def test_what_is_to_be_done_before_a_start_is_done_before_each(child):
    worker, calls = child(), []
    worker.before_start = lambda: calls.append(worker.pid)
    worker.ask({})
    worker.ask({})
    worker.close()
    assert calls == [None]
    worker.ask({})
    assert calls == [None, None]


def test_a_crash_is_an_error_with_exit_code_and_the_end_of_the_log(child):
    worker = child()
    with pytest.raises(WorkerDied, match=r"(?s)some_child ended with exit code 1.*talks to stdout.*no such weights"):
        worker.ask({"raise": "no such weights"})


def test_a_killed_child_is_an_error_that_names_the_signal_and_takes_its_children_along(child):
    worker = child()
    pids = worker.ask({"spawn": True})
    os.kill(pids["pid"], signal.SIGKILL)
    with pytest.raises(WorkerDied, match="some_child ended with SIGKILL"):
        worker.ask({})
    assert ends_within(5, *pids.values())
    assert worker.ask({})["message"] == {}


def test_a_child_that_will_not_end_is_killed(child):
    worker = child(stays=True)
    pid = worker.ask({"spawn": True})["grandchild"]
    started = time.monotonic()
    worker.close(patience=0.2)
    assert time.monotonic() - started < 5
    assert ends_within(5, pid)


def test_an_interrupted_question_leaves_no_answer_for_the_next(child):
    def interrupt(*_):
        raise KeyboardInterrupt

    worker = child()
    worker.ask({})
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.siginterrupt(signal.SIGALRM, False)  # as polars does it with SIGINT: a blocked read goes on after it
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            worker.ask({"sleep": 20})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 5
    assert worker.pid is None
    assert worker.ask({"n": 2})["message"] == {"n": 2}


def test_child_and_grandchild_end_when_their_parent_is_killed(child, tmp_path):
    script = "from pipeline.processes.worker import Worker; import time\nw = Worker('some_child', {})\n"
    script += "print(*w.ask({'spawn': True}).values(), flush=True); time.sleep(1000)"
    paths = os.pathsep.join([str(tmp_path), str(Path(pipeline.processes.worker.__file__).parents[1])])
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(is_running(pid) for pid in pids)
    parent.kill()
    parent.communicate()
    assert ends_within(5, *pids)


def test_idle_threads_wait_passively_unless_the_user_says_otherwise(child, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert child().ask({"variable": "OMP_WAIT_POLICY"}) == {"value": "PASSIVE"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert child().ask({"variable": "OMP_WAIT_POLICY"}) == {"value": "ACTIVE"}


def test_folders_of_the_user_s_hide_none_of_ours_from_a_child(namesakes):
    process = EmbedProcess(EmbedConfig())
    assert process(["tea"]).shape == (1, 384)
    process.close(patience=0)
    with pytest.raises(WorkerDied, match=r"vllm_engine ended with exit code 1[\s\S]*KeyError: 'devices'"):
        Worker("pipeline.llm.vllm_engine", {}).ask("its settings are missing, which it can only say once it runs")
