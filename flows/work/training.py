"""The work of the stages that let the trainer run."""

from collections.abc import Mapping
from pathlib import Path

from data_lake.config import Config
from flows.gate import check_gate
from flows.stage_spec import StageRun
from flows.trainer import run_folder, run_model
from flows.warm import train


def pretrain(run: StageRun) -> None:
    data, folder = run.io.input("training_set"), run.io.folder("pretrained")
    train(run, "pretrain", "--data", data, "--out", folder, "--pretrained", folder)


def finetune(run: StageRun) -> None:
    data, before, folder = run.io.input("training_set"), run.io.input("pretrained"), run.io.folder("checkpoint")
    train(run, "finetune", "--data", data, "--out", folder, "--pretrained", before, "--checkpoint", folder)


def check_checkpoint(run: StageRun, folders: Mapping[str, Path]) -> None:
    run.models.close()
    check_gate(run, folders["checkpoint"])


def evaluate(run: StageRun) -> None:
    trained = {"pretrained": run.io.input("pretrained"), "checkpoint": run.io.input("checkpoint")}
    out = {"metrics": run.io.folder("metrics"), "ranks": run.io.folder("ranks")}
    _use_model(run, "evaluate", trained, out, run.settings.evaluate)


def recommend(run: StageRun) -> None:
    trained = {"checkpoint": run.io.input("checkpoint")}
    out = {"recommendations": run.io.folder("recommendations")}
    _use_model(run, "recommend", trained, out, run.settings.recommend)


def _use_model(run: StageRun, verb: str, trained: dict[str, Path], out: dict[str, Path], cfg: Config) -> None:
    run.models.close()
    with run_folder(**trained) as run_dir, run_folder(**out) as out_dir:
        folders = ("--data", run.io.input("training_set"), "--run", run_dir, "--out", out_dir)
        run_model(verb, *folders, config=cfg)
