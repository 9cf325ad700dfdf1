import subprocess
import sys
from pathlib import Path

import pytest

from data_lake.peak_memory import PeakMemory

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")

MIB = 2**20


def held(action) -> int:
    with PeakMemory() as memory:
        action()
    assert memory.bytes is not None
    return memory.bytes


def test_the_peak_counts_what_a_child_of_the_process_held():
    size = 200 * MIB
    child = [sys.executable, "-c", f"import time; held = b'x' * {size}; time.sleep(1.5)"]
    assert held(lambda: subprocess.run(child, check=True)) > held(lambda: None) + size


def test_the_peak_is_in_the_manifest_of_a_run(lake, writes, items):
    run = lake.run(writes("ingest", {"items": items("tea")}))
    assert run.peak_bytes > MIB
    assert lake.manifest("items").peak_bytes == run.peak_bytes
