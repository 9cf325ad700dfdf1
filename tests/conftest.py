import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tests.faults.table import FAULT, table
from tests.sockets import free_port
from tests.tiny_model import write_tiny_model


def pytest_configure(config: pytest.Config) -> None:
    """Let children end by Ctrl-C, also where a shell that started pytest in the background had it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [each for reports in terminalreporter.stats.values() for each in reports]
    properties = [each.user_properties for each in reports if getattr(each, "when", "") == "call"]
    if lines := table(value for found in properties for name, value in found if name == FAULT):
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def namesakes(tmp_path, monkeypatch):
    """A working directory in which a user keeps folders that are called as packages of ours are."""
    folder = tmp_path / "namesakes"
    for name in ("data_lake", "flows", "model", "pipeline", "prefect", "torch"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise ImportError('a {name} of the user')")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory):
    """The folder of a Qwen2 of two layers with random weights: it answers nonsense, in any schema."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny-qwen2")


@pytest.fixture(scope="session")
def served_key():
    """The key that `served_llm` asks for."""
    return "key-of-the-test-server"


@pytest.fixture(scope="session")
def served_llm(tiny_llm, served_key, tmp_path_factory):
    """The base URL of vLLM's real server on loopback with `tiny_llm`, called "tiny".

    It is what `vllm serve` starts; that command itself looks for a distribution `vllm`, which the CPU build is not.
    """
    pytest.importorskip("vllm", reason="vLLM is not installed")
    port = free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_llm),
        "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--api-key", served_key, "--max-model-len", "2048",
        "--enforce-eager", "--max-num-seqs", "16",
        "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]  # fmt: skip
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    log = tmp_path_factory.mktemp("served") / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | quiet, start_new_session=True, cwd=log.parent
        )
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        else:
            pytest.fail(log.read_text()[-3000:])
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
