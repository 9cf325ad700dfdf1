"""Run a Python program as several ranks of one training on this machine.

    python -m model.ranks 2 -m model train --data ... --out ...

The ranks meet in a file of a private folder and talk over loopback. torchrun would listen on every address of the
machine, without a password, and unpickle what it is sent.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

MEETING = "EDT_RANKS_MEET_IN"
"""Environment variable that names the file in which the ranks meet; see `parallel.start`."""

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
POLL = 0.1


def run_ranks(processes: int, program: Sequence[str]) -> int:
    """Run `python PROGRAM` as this number of ranks. Returns 0, or the exit code of the first that failed.

    Where one fails the others, which would wait for it, are ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = [
            subprocess.Popen([sys.executable, *program], env=rank_environment(rank, processes, Path(folder)))
            for rank in range(processes)
        ]
        try:
            while True:
                codes = [each.poll() for each in started]
                failed = next((code for code in codes if code), 0)
                if failed or None not in codes:
                    return failed if failed >= 0 else 128 - failed
                time.sleep(POLL)
        finally:
            for each in started:
                each.terminate()
            for each in started:
                each.wait()


def rank_environment(rank: int, processes: int, folder: Path) -> dict[str, str]:
    """Return the environment of one rank, under the names that torchrun gives."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return {
        "GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK, **os.environ,
        MEETING: str(folder / "ranks"), **{name: str(value) for name, value in place.items()},
    }  # fmt: skip


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(run_ranks(int(sys.argv[1]), sys.argv[2:]))
