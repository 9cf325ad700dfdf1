"""A few hundred damaged inputs of every kind, always the same: what `make fuzz` does with a million."""

import subprocess
import sys


def test_damaged_files_and_replies_are_read_or_refused() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "2000", "--bomb-bytes", "4000000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    total = done.stdout.splitlines()[-1].split() if done.stdout else []
    assert total[:1] + total[-1:] == ["all", "0"], done.stdout + done.stderr
    assert done.returncode == 0
