import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.processes.child import Child, ending

WRITE_PID = "import os, sys, time; open(sys.argv[1] + '.tmp', 'w').write(str(os.getpid())); "
WRITE_PID += "os.rename(sys.argv[1] + '.tmp', sys.argv[1]); time.sleep(600)"
"""A program that writes its id to a file and then does nothing for long."""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends between opening and reading
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def wait_until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pid_in(file: Path) -> int:
    wait_until(file.exists)
    return int(file.read_text())


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def test_a_command_ends_with_us_even_when_we_are_killed(tmp_path):
    outer = (
        f"import sys, time; from pipeline.processes.child import Child; Child({python(WRITE_PID, tmp_path / 'pid')})"
    )
    outer += "; time.sleep(600)"
    with subprocess.Popen(python(outer), env=os.environ | {"PYTHONPATH": os.getcwd()}) as parent:
        pid = pid_in(tmp_path / "pid")
        assert is_alive(pid)
        parent.kill()
    wait_until(lambda: not is_alive(pid))


def test_a_command_that_will_not_end_is_killed_once_patience_is_over(tmp_path):
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    child = Child(python(deaf + WRITE_PID, tmp_path / "pid"), patience=0.2)
    pid = pid_in(tmp_path / "pid")
    child.end()
    assert not is_alive(pid)
    assert child.wait() == 128 + signal.SIGKILL


def test_a_command_that_is_asked_to_end_may_tidy_up(tmp_path):
    tidy = "import pathlib, signal, sys; file = pathlib.Path(sys.argv[1] + '.tidy'); "
    tidy += "signal.signal(signal.SIGTERM, lambda *_: sys.exit(file.write_text('done'))); "
    child = Child(python(tidy + WRITE_PID, tmp_path / "pid"))
    pid_in(tmp_path / "pid")
    child.end()
    assert (tmp_path / "pid.tidy").read_text() == "done"
    assert child.wait() == 4  # what `write_text` returned


def test_what_a_command_leaves_behind_ends_with_it(tmp_path):
    leaving = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WRITE_PID!r}, sys.argv[1]])\n"
    leaving += "import os, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)"
    child = Child(python(leaving, tmp_path / "pid"), stdout=subprocess.PIPE)
    assert child.wait(20) == 0
    assert child.process.stdout.read() == b""  # nobody is left who could write
    wait_until(lambda: not is_alive(pid_in(tmp_path / "pid")))
    child.end()


def test_a_command_may_be_stopped_and_go_on(tmp_path):
    child = Child(python(WRITE_PID, tmp_path / "pid"))
    pid = pid_in(tmp_path / "pid")
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    assert is_alive(pid)
    child.end()


def test_the_exit_code_of_a_command_is_ours_to_read():
    for program, code, told in (
        ("import sys; sys.exit(7)", 7, "exit code 7"),
        ("import sys; sys.exit(255)", 255, "exit code 255"),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})", 128 + signal.SIGKILL, "SIGKILL"),
    ):
        child = Child(python(program))
        assert child.wait(20) == code
        assert ending(code) == told
        child.end()
