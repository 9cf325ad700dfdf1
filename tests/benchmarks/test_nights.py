"""Nights of food-kitchen: each has a file of actions more."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from benchmarks.nights import write_nights
from tests.benchmarks.conftest import run_benchmark


def test_each_night_brings_the_actions_since_the_night_before(tmp_path: Path) -> None:
    days = [datetime(2014, 7, day, tzinfo=UTC) for day in (1, 16, 17, 18, 22, 23)]
    pl.DataFrame({"timestamp": days}).write_parquet(tmp_path / "interactions.parquet")
    files = write_nights(tmp_path, tmp_path, days=3)
    found = [pl.read_parquet(file)["timestamp"].dt.day().to_list() for file in files]
    assert found == [[1, 16, 17], [18], [22, 23]]


def test_a_folder_that_is_there_is_refused(tmp_path: Path) -> None:
    done = run_benchmark("nights", "--out", tmp_path)
    assert done.returncode == 2
    assert "is there already: what it holds would be no work of these nights" in done.stderr
