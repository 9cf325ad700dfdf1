"""The table of quality and the ablation, on one tiny world that stands for food-kitchen and is trained on once."""

import subprocess
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from data_lake.schemas import METRICS, RANKS
from data_lake.tables import read_tables
from flows.sample import write_sample
from flows.settings import load_settings
from pipeline.sample_world.simulate import SimulateConfig, simulate
from tests.benchmarks.conftest import lines_of, run_benchmark

pytestmark = pytest.mark.slow

PUBLISHED = {"food": ["0.2519", "0.3243", "0.1971", "0.1655"], "kitchen": ["0.1745", "0.2438", "0.1427", "0.1219"]}
SHOWN = ("HR@5", "HR@10", "NDCG@10", "MRR")
SMALL = (
    "train.network.hidden=8", "train.network.item_id=false", "train.threads=1", "train.pretrain.epochs=1",
    "train.finetune.epochs=1", "train.pretrain.learning_rate=0.05", "train.finetune.learning_rate=0.05",
)  # fmt: skip
"""So that one epoch tells."""


class Measured(NamedTuple):
    """Where the artifacts lie, and what the command printed."""

    data: Path
    out: Path
    lines: list[str]


def overrides(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def quality(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")
    world = simulate(SimulateConfig(users=60, items=40))
    (data / "food-kitchen").mkdir()
    interactions = pl.DataFrame(world.interactions).with_columns(position=pl.int_range(pl.len()).over("user_id"))
    interactions.write_parquet(data / "food-kitchen" / "interactions.parquet")
    pl.DataFrame(world.items).write_parquet(data / "food-kitchen" / "items.parquet")
    options = ("--seeds", "1", "--together", "--out", out, *overrides(*SMALL))
    return Measured(data, out, lines_of("quality", *options, data=data))


def block(lines: list[str], heading: str) -> list[list[str]]:
    """Return the words of the lines below a heading, up to the next empty line."""
    start = lines.index(heading) + 1
    end = next((at for at in range(start, len(lines)) if not lines[at]), len(lines))
    return [line.split() for line in lines[start:end]]


def figures(out: Path, protocol: str, domain: str) -> list[float]:
    """Return the test figures over all targets, after phase 2, as the evaluation has written them."""
    [folder] = out.glob("runs/*/seed-0/figures/metrics")
    rows = pl.DataFrame(read_tables(folder, METRICS)).filter(
        phase="finetune", split="test", group="all", protocol=protocol, domain=domain
    )
    return [rows.filter(metric=metric)["value"].item() for metric in SHOWN]


def test_the_table_shows_each_figure_with_its_ratio_to_the_published_one(quality: Measured) -> None:
    heading, *rows = block(quality.lines, "after finetune, targets: all")
    assert heading == list(SHOWN)
    assert [row[0] for row in rows if row[0] == "ABXI"] == ["ABXI", "ABXI"]
    for domain, published in PUBLISHED.items():
        own, abxi = next(
            pair for pair in pairwise(rows) if pair[0][:2] == [domain, "sampled-999"]
        )  # fmt: skip
        expected = figures(quality.out, "sampled-999", domain)
        ratios = [f"x{value / float(theirs):.2f}" for value, theirs in zip(expected, published, strict=True)]
        shown = [word for value, ratio in zip(expected, ratios, strict=True) for word in (f"{value:.4f}", ratio)]
        assert own[3:] == shown
        assert abxi == ["ABXI", *published]
        [full] = [row for row in rows if row[:2] == [domain, "full"]]
        assert full[3:] == [f"{value:.4f}" for value in figures(quality.out, "full", domain)]


def test_a_group_that_holds_all_targets_is_not_shown_again(quality: Measured) -> None:
    assert not [line for line in quality.lines if "not same-time" in line]  # no two actions of a user share a time


def test_the_scores_of_one_seed_added_up_rank_as_that_seed_does(quality: Measured) -> None:
    rows = block(quality.lines, "after finetune, targets: all, scores of 1 seeds added up")
    alone = [row for row in block(quality.lines, "after finetune, targets: all")[1:] if row[0] != "ABXI"]
    assert sorted(rows) == sorted(alone)


@pytest.fixture(scope="module")
def ablation(quality: Measured) -> subprocess.CompletedProcess[str]:
    variants = ["without text vectors", "without id vectors", "without recency popularity", "without phase 2"]
    options = ("--config", quality.out / "food-kitchen.toml", "--out", quality.out, "--seeds", "1", *overrides(*SMALL))
    done = run_benchmark("ablation", *options, "--variants", *variants)
    assert done.returncode == 0, done.stderr
    return done


def test_the_ablation_leaves_out_what_the_settings_do_not_allow(ablation: subprocess.CompletedProcess[str]) -> None:
    left_out = [line for line in ablation.stderr.splitlines() if " is left out: " in line]
    assert left_out[0].startswith("without text vectors is left out: ")
    assert left_out[0].endswith("item_text and item_id cannot both be off: an item would have no vector.")
    assert left_out[1:] == ["without id vectors is left out: the settings are so already"]
    assert ablation.stderr.count("seed-0: training, seed 0") == 1  # the whole method is trained already


def test_the_ablation_compares_each_variant_with_the_whole_method(
    ablation: subprocess.CompletedProcess[str],
) -> None:
    lines = [line for line in ablation.stdout.splitlines() if line.startswith("without ")]
    assert [" ".join(line.split()[:2]) for line in lines] == ["without recency"] * 4 + ["without phase"] * 4
    without_recency, without_phase_2 = (
        [float(word) for word in line.split("NDCG@10")[1].split()[:3]] for line in (lines[1], lines[5])
    )
    assert without_recency[0] == without_phase_2[0]
    for whole, variant, difference in (without_recency, without_phase_2):
        assert difference == pytest.approx(variant - whole, abs=1.1e-4)
        assert difference != 0


@pytest.mark.slow
def test_augmentation_is_compared_with_none_on_a_thinned_copy(quality: Measured, tmp_path: Path) -> None:
    settings = overrides(*SMALL, "enrich.noise_filter=false", "enrich.probes=10", "train.loss.synthetic_weight=1")
    options = ("--copies", "0", "--arms", "cooccurrence", "--out", tmp_path, *settings)
    lines = lines_of("augmentation", *options, data=quality.data)
    assert lines[2].startswith("thinned, validation, finetune, 1 training seeds")
    [line] = [line for line in lines if line.split()[1:4] == ["all", "full", "HR@10"]]
    hits = {
        float((ranks.filter(phase="finetune", split="validation", protocol="full")["rank"] <= 10).mean())
        for ranks in (
            pl.DataFrame(read_tables(folder, RANKS)) for folder in tmp_path.glob("runs/*/seed-0/figures/ranks")
        )
    }
    assert len(hits) == 2
    none, augmented = (float(line.split()[at]) for at in (4, 6))
    assert {none, augmented} == {round(hit, 4) for hit in hits}
    assert line.endswith("(60 users)")


def test_every_variant_changes_the_settings_of_the_sample_world_as_it_is_set_up(tmp_path: Path) -> None:
    done = run_benchmark("ablation", "--users", "60", "--items", "40", "--out", tmp_path / "out", "--list")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # nothing is left out
    heading, *variants = done.stdout.splitlines()
    write_sample(tmp_path / "raw", tmp_path / "edt.toml", ["users=60", "items=40"])
    sample = load_settings(tmp_path / "edt.toml")
    config = tmp_path / "out" / "60-40-0" / "edt.toml"
    assert heading == f"{config}: generator {sample.enrich.generator}"
    assert load_settings(config).only("enrich", "llm", "train") == sample.only("enrich", "llm", "train")
    assert len(variants) == 12
    assert variants[0] == "without augmentation     enrich.budget=0"
    assert variants[-1] == "without phase 2"
