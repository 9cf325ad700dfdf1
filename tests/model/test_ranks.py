"""Several processes of one training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.ranks import rank_environment
from tests.sockets import listening

ROOT = Path(__file__).parents[2]

MEET = """
import os
import torch
from model import parallel

parallel.start(torch.device("cpu"))
parallel.barrier()
os.write(1, b"met\\n")
parallel.barrier()
os.read(0, 1)
"""

COMMAND = [sys.executable, "-m", "model.ranks", "2"]


def program(folder: Path, text: str) -> list[str]:
    file = folder / "program.py"
    file.write_text(text)
    return [*COMMAND, str(file)]


def test_ranks_listen_on_loopback_alone(tmp_path: Path) -> None:
    run = subprocess.Popen(program(tmp_path, MEET), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert [run.stdout.readline() for _ in range(2)] == [b"met\n"] * 2
    assert listening(run.pid) == {"127.0.0.1"}
    run.communicate(b"\n\n")
    assert run.returncode == 0


def test_each_rank_knows_its_place(tmp_path: Path) -> None:
    text = (
        "import os; names = 'RANK', 'LOCAL_RANK', 'WORLD_SIZE'\n"
        "os.write(1, (''.join(os.environ[name] for name in names) + '\\n').encode())"  # in one piece
    )
    run = subprocess.run(program(tmp_path, text), check=True, capture_output=True, text=True)
    assert sorted(run.stdout.split()) == ["002", "112"]


def test_where_a_rank_fails_the_others_end_and_its_code_is_the_run_s(tmp_path: Path) -> None:
    text = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(600)"
    assert subprocess.run(program(tmp_path, text), check=False).returncode == 3


def test_what_the_user_set_for_the_network_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert rank_environment(0, 2, Path("/somewhere"))["GLOO_SOCKET_IFNAME"] == "eth7"


def test_a_run_that_is_ended_ends_its_ranks(tmp_path: Path) -> None:
    text = "import os, time; open(os.environ['RANK'], 'w').write(str(os.getpid())); time.sleep(600)"
    run = subprocess.Popen(program(tmp_path, text), cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    written = [tmp_path / "0", tmp_path / "1"]
    while not all(each.exists() and each.read_text() for each in written):
        assert run.poll() is None
    run.terminate()
    run.wait()
    for each in written:
        with pytest.raises(ProcessLookupError):
            os.kill(int(each.read_text()), 0)
