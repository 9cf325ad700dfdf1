import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_lake.errors import UserError
from flows import trainer
from flows.child import Child
from model.config import RecommendConfig


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_command_ends_with_us_even_when_we_are_killed(tmp_path):
    pid_file = tmp_path / "pid"
    inner = f"import os, time; open({str(pid_file)!r} + '.tmp', 'w').write(str(os.getpid())); "
    inner += f"os.rename({str(pid_file)!r} + '.tmp', {str(pid_file)!r}); time.sleep(600)"
    outer = (
        f"import sys, time; from flows.child import Child; Child([sys.executable, '-c', {inner!r}]); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", outer], env=os.environ | {"PYTHONPATH": os.getcwd()}) as parent:
        wait_until(pid_file.exists)
        pid = int(pid_file.read_text())
        assert is_alive(pid)
        parent.kill()
    wait_until(lambda: not is_alive(pid))


def test_the_exit_code_of_a_command_is_ours_to_read():
    child = Child([sys.executable, "-c", "import sys; sys.exit(7)"])
    assert child.process.wait(20) == 7
    child.end()
    child = Child([sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"])
    assert child.process.wait(20) == 128 + signal.SIGKILL
    child.end()


def test_a_mistake_that_the_trainer_tells_is_the_user_s_to_mend(tmp_path):
    folders = ("--data", tmp_path, "--run", tmp_path, "--out", tmp_path)
    with pytest.raises(UserError, match="holds no trained phase"):
        trainer.run_model("recommend", *folders, config=RecommendConfig())


def test_any_other_end_of_the_trainer_shows_its_last_lines(tmp_path):
    with pytest.raises(RuntimeError, match=r"exit code 2[\s\S]*--data"):
        trainer.run_model("recommend", "--run", tmp_path, "--out", tmp_path, config=RecommendConfig())


def test_ctrl_c_reaches_a_run_whose_trainer_is_silent():
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.siginterrupt(signal.SIGALRM, False)  # as polars does it with SIGINT: a blocked read goes on after it
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            trainer._follow([sys.executable, "-c", "import time; time.sleep(20)"])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 5
