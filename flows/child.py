"""A command that runs as a child of ours and ends when we do, however we end.

Started as a program (`python child.py PIPE COMMAND...`), this file stands between: it runs the command, and ends it
when the other end of the pipe closes, which the system does even for a process that was killed.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

PATIENCE = 10.0
"""Seconds that a command has to end by itself once it is asked to."""

_QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "PYTHONUNBUFFERED": "1"}
"""Idle threads that spin make every neighbour on the machine many times slower."""


class Child:
    """A running command. It finds packages where we do; Ctrl-C reaches only us, and we end it.

    Its exit code is 128 and more where a signal ended it, as in a shell.
    """

    def __init__(self, command: Sequence[str], stdout: int | None = None, stderr: int | None = None) -> None:
        """`stdout` and `stderr` are as in `subprocess`: by default ours."""
        here = Path(__file__).resolve()
        paths = os.pathsep.join(filter(None, [str(here.parent.parent), os.environ.get("PYTHONPATH")]))
        life_end, self._life = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(here), str(life_end), *command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**_QUIET_THREADS, **os.environ, "PYTHONPATH": paths},
                pass_fds=(life_end,),
                start_new_session=True,
            )
        finally:
            os.close(life_end)

    def end(self) -> None:
        """End the command if it still runs."""
        os.close(self._life)
        self.process.wait()


def _main(life: int, command: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: None)  # what we send to our group is for the command
    child = subprocess.Popen(command)
    threading.Thread(target=_watch, args=(life, child), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _watch(life: int, child: subprocess.Popen[bytes]) -> None:
    select.select([life], [], [])
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(PATIENCE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1]), sys.argv[2:]))
