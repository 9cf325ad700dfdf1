"""A command that runs as a child of ours and ends when we do, however we end.

Started as a program (`python child.py LIFE PATIENCE COMMAND...`), this file stands between: it runs the command, and
ends it when the other end of the pipe LIFE closes, which the system does even for a process that was killed. (Linux's
PR_SET_PDEATHSIG would end the child with the *thread* that started it.)
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

PATIENCE = 10.0
"""Seconds that a command has to end by itself once it is asked to."""

_QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "PYTHONUNBUFFERED": "1"}
"""Idle threads that spin make every neighbour on the machine many times slower."""


class Child:
    """A running command and all that it starts. Ctrl-C reaches only us, and we end it."""

    def __init__(
        self,
        command: Sequence[str],
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        patience: float = PATIENCE,
    ) -> None:
        """Start the command; `stdout`, `stderr` and `pass_fds` are as in `subprocess`: by default it writes to ours.

        `environment` yields to what the user has set. `patience` is how long (seconds) the command may take to end
        after SIGTERM before it is killed, when we end it and when we die.
        """
        life_end, self._life = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), str(life_end), str(patience), *command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**(environment or {}), **child_environment()},
                pass_fds=(life_end, *pass_fds),
                start_new_session=True,
            )
        finally:
            os.close(life_end)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command's end and return its exit code: as in a shell, 128 + n where signal n ended it."""
        return self.process.wait(timeout)

    def end(self) -> None:
        """End the command, if it still runs, and what it has left behind."""
        os.close(self._life)
        self.process.wait()


def child_environment() -> dict[str, str]:
    """Return our environment for Python programs that we start, and those that they start.

    They find packages where we do and never in the working directory: what lies there is the user's, whatever its name.
    """
    home = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return {**_QUIET_THREADS, **os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}


def ending(code: int) -> str:
    """Say how a command ended: "exit code 2", or the name of the signal."""
    return next((each.name for each in signal.Signals if code == 128 + each), f"exit code {code}")


def _run(life: int, patience: float, command: Sequence[str]) -> int:
    """Run the command in a process group of its own until it ends or `life` closes; leave nothing of the group."""
    os.set_inheritable(life, False)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for each in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):  # the last two: we end with the command, not before
        signal.signal(each, lambda *_: None)
    child = subprocess.Popen(command, close_fds=False, process_group=0)
    while child.poll() is None:
        if life in select.select([life, woken], [], [])[0]:
            os.killpg(child.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(patience)
            break
        os.read(woken, 1)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(_run(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
