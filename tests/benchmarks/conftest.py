"""Benchmarks are run as a person runs them: by their commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_lake.tables import write_parts
from tests.model.conftest import tiny_tables

ROOT = Path(__file__).resolve().parents[2]


def run_benchmark(name: str, *options: str | Path, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m benchmarks.NAME`; `data` is the folder that EDT_DATA names, else it is not set."""
    env = {key: value for key, value in os.environ.items() if key != "EDT_DATA"}
    env |= {"EDT_DATA": str(data)} if data else {}
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def lines_of(name: str, *options: str | Path, data: Path | None = None) -> list[str]:
    """Return what a benchmark that must succeed prints."""
    done = run_benchmark(name, *options, data=data)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random training set with synthetic items."""
    folder = tmp_path_factory.mktemp("tiny") / "training_set"
    for name, table in tiny_tables().items():
        write_parts(table, folder / name)
    return folder
