"""What benchmarks measure on and with: training sets and trained runs, each made once and found again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from data_lake.lake import Lake
from data_lake.schemas import METRICS, RANKS
from data_lake.tables import read_tables
from flows.run import make_until
from flows.settings import Settings
from flows.summary import stage_line
from flows.text import log
from flows.trainer import run_model
from model.config import MACHINE, EvaluateConfig, TrainConfig
from model.data.training_set import TrainingSet
from model.device import cores


@dataclass(frozen=True)
class Run:
    """A trained run and what it measured."""

    folder: Path
    metrics: pa.Table
    ranks: pa.Table


def run_until(settings: Settings, last_stage: str) -> Lake:
    """Make what is missing up to a stage, without Prefect; return the lake."""
    return make_until(settings, last_stage, lambda made: log(stage_line(made)))


def training_set(settings: Settings) -> Path:
    """Make what is missing up to the training set; return its folder."""
    return run_until(settings, "assemble").path("training_set")


def runs(data: Path, digest: str, cfg: TrainConfig, seeds: Sequence[int], out: Path) -> list[Run]:
    """Train and evaluate with each seed, under `out`; what is there stands, and an interrupted training goes on.

    `digest` is that of the training set in `data`. A change of the trainer's code is not seen: then remove `out`.
    """
    identity = cfg.model_dump(mode="json", exclude={"seed", *MACHINE})
    name = hashlib.sha256(json.dumps([digest, identity], sort_keys=True).encode()).hexdigest()[:16]
    return [_run(data, cfg.model_copy(update={"seed": seed}), out / "runs" / name / f"seed-{seed}") for seed in seeds]


def _run(data: Path, cfg: TrainConfig, folder: Path) -> Run:
    figures = folder / "figures"
    if not figures.exists():
        log(f"{folder}: training, seed {cfg.seed}")
        run_model("train", "--data", data, "--out", folder, config=cfg)
        partial = folder / "figures.tmp"
        run_model("evaluate", "--data", data, "--run", folder, "--out", partial, config=EvaluateConfig())
        partial.rename(figures)
    return Run(folder, read_tables(figures / "metrics", METRICS), read_tables(figures / "ranks", RANKS))


def train_config(settings: Settings) -> TrainConfig:
    """Return the trainer's settings without how it is started."""
    return TrainConfig(**{name: getattr(settings.train, name) for name in TrainConfig.model_fields})


def about(data: TrainingSet) -> str:
    """Say what is measured on, data and machine, in two lines."""
    real = int((~data.synthetic).sum())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{data.n_users:,} users, {data.n_items:,} items in {', '.join(data.domains)}, {real:,} actions, "
        f"{len(data.items) - real:,} synthetic items, training set {data.digest[:12]}\n"
        f"{cores()} CPU cores, {gpu}, torch {torch.__version__}"
    )
