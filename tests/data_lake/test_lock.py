import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_lake.errors import UserError
from data_lake.lake import Lake

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from data_lake.lake import Lake
with Lake(sys.argv[2], "shop").lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(lake: Lake):
    """Another process that holds the lake's lock."""
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", HOLD, root, str(lake.home.parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_is_told_who_holds_the_dataset(lake: Lake, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(UserError) as error, lake.lock():
        pass
    message = str(error.value)
    assert f"process {holder.pid} on {os.uname().nodename} since 20" in message
    assert re.match(r"Dataset 'shop' is being written by .*\. Wait until it is done, or end it\.", message)


def test_a_dead_holder_blocks_nobody(lake: Lake, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert str(holder.pid) in (lake.home / ".lock").read_text()  # its name is still there
    with lake.lock():
        assert f'"pid": {os.getpid()}' in (lake.home / ".lock").read_text()


def test_a_process_may_enter_its_own_lock_again(lake: Lake) -> None:
    with lake.lock():
        with Lake(lake.home.parent, "shop").lock():
            pass
        assert (lake.home / ".lock").read_text() != ""  # still held
    assert (lake.home / ".lock").read_text() == ""


def test_another_dataset_has_another_lock(lake: Lake, holder: subprocess.Popen[str]) -> None:
    with Lake(lake.home.parent, "other").lock():
        pass


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/shop: cannot be written \(Not a directory\)\. Set \[lake\] root"):
        Lake(tmp_path / "file", "shop").lock().__enter__()


def test_a_lock_that_is_a_link_is_not_followed(lake: Lake, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    lake.home.mkdir(parents=True, exist_ok=True)
    (lake.home / ".lock").symlink_to(victim)
    with pytest.raises(UserError, match="cannot be written"), lake.lock():
        pass
    assert victim.read_text() == "kept"
