"""Three nights of food-kitchen, each with a file of actions more: what a night that trains on costs, beside a full run.

    python -m benchmarks.nights
    python -m benchmarks.nights --days 1 --set enrich.generator=retrieval --set train.pretrain.epochs=10

One lake lives through all nights and trains warm from the second one on; beside it each later night is made in a lake
of its own, from nothing. Targets are the actions of the last four weeks of a night, and of the four weeks before. A
figure of the warm lake counts what that night made: a stage that was fresh is none of it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow.compute as pc

from benchmarks.food_kitchen import food_kitchen
from data_lake.lake import Lake
from data_lake.manifest import Manifest
from data_lake.schemas import TEST, VALIDATION
from flows.run import make_until
from flows.settings import load_settings
from flows.stages import ASKING, STAGES
from flows.summary import stage_line
from flows.text import log
from model.evaluation.compare import paired

SETTINGS = """\
dataset = "nights"
[data]
interactions = {interactions}
items = "{items}"
[split]
by = "time"
validation_days = 28
test_days = 28
[enrich]
generator = "cooccurrence"
[evaluate]
protocols = ["full", "sampled-999"]
[lake]
root = "{root}"
"""
NIGHTS = 3
PROTOCOL = "sampled-999"
SHOWN = ("HR@10", "NDCG@10")
ENCODING = ("embed_items", "ground", "embed_profiles")
PARTS = {
    "read": ("ingest", "split"),
    "embed": ("embed_items", "embed_profiles"),
    "ask": tuple(ASKING),
    "train": ("pretrain", "finetune"),
    "measure": ("evaluate", "recommend"),
}
"""Stages whose seconds are told together; those of all others are "other"."""


@dataclass
class Night:
    """What one run made and measured."""

    lake: Lake
    made: dict[str, Manifest] = field(default_factory=dict)
    """By stage; without those that were fresh."""

    def prompts(self) -> int:
        """Return how many prompts were answered, but not from the memory of replies."""
        made = [(self.made[stage], artifact) for stage, artifact in ASKING.items() if stage in self.made]
        return sum(int(each.figures.get("asked", each.outputs[artifact].rows)) for each, artifact in made)

    def texts(self) -> int:
        """Return how many texts were encoded."""
        return sum(int(self.made[stage].figures.get("asked", 0)) for stage in ENCODING if stage in self.made)

    def profiles(self) -> int:
        """Return how many profiles were made."""
        made = {artifact for each in self.made.values() for artifact in each.outputs}
        names = made & {"domain_profiles", "user_profiles"}
        return sum(self.lake.read(name).num_rows for name in names)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each of `PARTS`, of the other stages and of all."""
        seconds = {stage: made.seconds for stage, made in self.made.items()}
        parts = {name: sum(seconds.get(stage, 0.0) for stage in stages) for name, stages in PARTS.items()}
        all_of_it = sum(seconds.values())
        return parts | {"other": all_of_it - sum(parts.values()), "all": all_of_it}

    def metric(self, split: str, name: str) -> float:
        """Return a figure of the last phase over all users."""
        wanted = {"phase": "finetune", "split": split, "group": "all", "protocol": PROTOCOL, "metric": name}
        chosen = pc.is_null(pc.field("domain"))
        for column, value in wanted.items():
            chosen &= pc.field(column) == value
        [value] = self.lake.read("metrics").filter(chosen)["value"].to_pylist()
        return float(value)


def write_nights(data: Path, folder: Path, days: int) -> list[Path]:
    """Write a file of actions per night: all up to the first night, then those of `days` days each; return them."""
    actions = pl.read_parquet(data / "interactions.parquet")
    last, files = actions["timestamp"].max(), []
    ends = [last - timedelta(days=days * left) for left in reversed(range(NIGHTS))]  # type: ignore[operator]
    for number, end in enumerate(ends):
        new = pl.col("timestamp") <= end
        if number:
            new &= pl.col("timestamp") > ends[number - 1]
        files.append(folder / f"night-{number + 1}.parquet")
        actions.filter(new).write_parquet(files[-1])
    return files


def run_night(files: Sequence[Path], items: Path, config: Path, root: Path, overrides: Sequence[str]) -> Night:
    """Make everything from these files in the lake under `root`."""
    named = [str(file) for file in files]
    config.write_text(SETTINGS.format(interactions=named, items=items, root=root), "utf-8")
    made: dict[str, Manifest] = {}

    def tell(manifest: Manifest) -> None:
        log(stage_line(manifest))
        if not manifest.skipped:
            made[manifest.stage] = manifest

    return Night(make_until(load_settings(config, overrides), STAGES[-1], tell), made)


def show(number: int, name: str, night: Night, files: str) -> None:
    """Print the lines of a night."""
    seconds = ", ".join(f"{part} {value:.0f}" for part, value in night.seconds().items())
    print(
        f"night {number}, {name}: {files}; {night.prompts():,} prompts, {night.texts():,} texts embedded, "
        f"{night.profiles():,} profiles\n  seconds: {seconds}"
    )
    for stage in PARTS["train"]:
        if found := night.made[stage].figures.get("warm"):
            print(f"  {stage}: " + ", ".join(f"{key} {_short(value)}" for key, value in found.items()))
    for split in (VALIDATION, TEST):
        values = "  ".join(f"{metric} {night.metric(split, metric):.4f}" for metric in SHOWN)
        print(f"  {split:<10} {PROTOCOL}  {values}", flush=True)


def _short(value: float | str) -> str:
    return value[:100] if isinstance(value, str) else f"{value:.4g}"


def show_difference(warm: Night, full: Night) -> None:
    """Print how far a warm night lies above the full one, paired over users."""
    for split in (VALIDATION, TEST):
        tables = [warm.lake.read("ranks")], [full.lake.read("ranks")]
        found = paired(*tables, split=split, protocol=PROTOCOL, phases=("finetune", "finetune"))
        told = "  ".join(
            f"{it.metric} {it.difference:+.4f} [{it.low:+.4f}, {it.high:+.4f}]" for it in map(found.get, SHOWN) if it
        )
        print(f"  warm - full {split:<10} {told}", flush=True)


def main() -> None:
    """Print the lines of each night, and how the warm lake stands to the full one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=7, help="between two nights")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as train.seed=1")
    parser.add_argument("--out", type=Path, default=Path("nights"), help="a folder that is not there yet")
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"{given.out} is there already: what it holds would be no work of these nights")
    data, out = food_kitchen(), given.out.resolve()
    out.mkdir(parents=True)
    files = write_nights(data, out, given.days)
    for number in range(1, NIGHTS + 1):
        until, config = files[:number], out / "edt.toml"
        items = data / "items.parquet"
        is_warm = number > 1
        warm = run_night(until, items, config, out / "warm", [*given.set, *(["train.warm=true"] if is_warm else [])])
        show(number, "warm" if is_warm else "from scratch", warm, f"1 new file, {number} read")
        if is_warm:
            full = run_night(until, items, config, out / f"full-{number}", given.set)
            show(number, "full", full, f"{number} files read")
            show_difference(warm, full)


if __name__ == "__main__":
    main()
