"""What a second night asks and takes after 1 % of the users have one action more, against the first night.

    python -m benchmarks.second_night                                # edt-tiny, 300 users
    python -m benchmarks.second_night --users 100 --model FOLDER

Each night makes everything from the raw files to the profiles of users; the start of the engine is part of its time.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks.generation_world import describe_machine, llm_settings
from flows.run import RunRequest, open_run
from flows.selection import StageSelection
from flows.stages import ASKING
from pipeline.sample_world.simulate import SimulateConfig, simulate, write

SETTINGS = """
dataset = "night"
[data]
interactions = "interactions.csv"
items = "items.csv"
[enrich]
generator = "vllm"
answers = 3
max_tokens = 160
[profile]
words = 12
user_words = 12
max_tokens = 120
"""
LAST_STAGE = "profile_users"


@dataclass
class Night:
    """Prompts that were asked and that the lake answered; seconds in the engine, and of it all."""

    asked: int = 0
    reused: int = 0
    seconds_asking: float = 0.0
    seconds: float = 0.0


def run_night(config: Path, overrides: tuple[str, ...]) -> Night:
    """Make what is stale up to the profiles of users."""
    night, started = Night(), time.monotonic()
    request = RunRequest(config=config, overrides=overrides, selection=StageSelection(to=LAST_STAGE))
    with open_run(request) as run:
        for stage in run.selection.apply(run.stages):
            made = run.lake.run(stage)
            if stage.name in ASKING and not made.skipped:
                night.asked += made.figures["asked"]
                night.reused += made.figures["reused"]
                night.seconds_asking += made.figures["seconds_asking"]
    night.seconds = time.monotonic() - started
    return night


def add_actions(file: Path) -> int:
    """Repeat the last action of 1 % of the users, at least one, at the latest time; return how many they are."""
    table = pl.read_csv(file)
    users = table["user_id"].unique().sort()
    changed = users[: max(1, len(users) // 100)]
    last = table.filter(pl.col("user_id").is_in(changed.to_list())).group_by("user_id", maintain_order=True).last()
    latest = pl.lit(table["timestamp"].max()).cast(pl.Int64)
    pl.concat([table, last.with_columns(timestamp=latest).select(table.columns)]).write_csv(file)
    return len(changed)


def main() -> None:
    """Print a line per night, and the second against the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edt-tiny", help="edt-tiny, or the folder of a model")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--items", type=int, default=200, help="per domain")
    given = parser.parse_args()
    print(describe_machine(given.model), flush=True)
    overrides = tuple(f"llm.{name}={value}" for name, value in llm_settings(given.model).items())
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "edt.toml"
        config.write_text(SETTINGS, encoding="utf-8")
        write(simulate(SimulateConfig(users=given.users, items=given.items)), Path(scratch))
        first = run_night(config, overrides)
        changed = add_actions(Path(scratch) / "interactions.csv")
        second = run_night(config, overrides)
    for name, night in {"first": first, "second": second}.items():
        print(
            f"{name + ' night':<14} {night.seconds:8.2f} s  {night.asked} prompts asked in "
            f"{night.seconds_asking:.2f} s, {night.reused} reused"
        )
    print(
        f"               the second ({changed} of {given.users} users changed) asks {second.asked / first.asked:.1%} "
        f"of the first and takes {second.seconds / first.seconds:.1%} of its time, the engine's start included"
    )


if __name__ == "__main__":
    main()
