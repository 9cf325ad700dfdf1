"""Training that goes on from the current weights, and that is kept only where it is no worse than they are."""

import json
from pathlib import Path
from typing import Any

from data_lake.errors import UserError
from data_lake.files import put_text, remove
from data_lake.manifest import hash_file
from flows.stage_spec import StageRun
from flows.text import log
from flows.trainer import compare_phases, run_folder, run_model
from model.config import PHASES, EvaluateConfig, TrainConfig

OUTCOME = "warm.json"
"""The file beside the weights with what became of the warm start, so that a run that was killed decides it once."""
WEIGHTS = "model.safetensors"


def train(run: StageRun, phase: str, *folders: str | Path) -> None:
    """Train a phase into the folder of its artifact: from scratch, or as `[train] warm` has it.

    `folders` are the trainer's options. A stage that was asked to be rebuilt trains from scratch.
    """
    run.models.close()
    if not run.settings.train.warm:
        _run_trainer(run, phase, *folders)
        return
    outcome_file = run.io.folder(PHASES[phase]) / OUTCOME
    if not outcome_file.exists():
        put_text(outcome_file, json.dumps(_try_warm(run, phase, *folders), indent=2, sort_keys=True) + "\n")
    outcome = json.loads(outcome_file.read_text(encoding="utf-8"))
    if not outcome["is_warm"]:
        _run_trainer(run, phase, *folders)
    run.io.count(warm=outcome)


def _try_warm(run: StageRun, phase: str, *folders: str | Path) -> dict[str, Any]:
    """Train warm and compare. Returns the figures; where the result is not to be kept, its files are gone."""
    artifact = PHASES[phase]
    try:
        found = _train_warm(run, phase, *folders)
    except UserError as error:
        log(f"{phase}: trains from scratch, as it cannot start warm: {error}")
        _empty(run.io.folder(artifact))
        return {"is_warm": False, "why": str(error)}
    told = (
        f"{found['epochs']} warm epochs reach {found['metric']} {found['new']:.4f} against {found['before']:.4f} of "
        f"the current {artifact} on {found['targets']:,} validation targets"
    )
    if found["new"] >= found["before"]:
        log(f"{phase}: {told}")
        return {"is_warm": True, **found}
    log(f"{phase}: trains from scratch, as {told}")
    _empty(run.io.folder(artifact))
    return {"is_warm": False, **found, "why": "worse than the current one"}


def _train_warm(run: StageRun, phase: str, *folders: str | Path) -> dict[str, Any]:
    """Train from the current weights; return the epochs, what it started from, and both figures.

    Raises UserError where there are no weights to start from, where they do not fit or cannot be measured.
    """
    artifact, cfg = PHASES[phase], run.settings.train
    if run.io.is_rebuild:
        raise UserError("It was asked to be rebuilt.")
    before, data = run.io.current(artifact), run.io.current_input("training_set", of=artifact)
    if before is None:
        raise UserError(f"The lake holds no {artifact} yet.")
    if data is None:
        raise UserError("The lake no longer keeps the training set that the current one was made from.")
    folder, digest = run.io.folder(artifact), hash_file(before / WEIGHTS)
    if _read(folder / "config.json").get("before") != digest:
        _empty(folder)  # of a run that was killed, and had started from other weights
    with run_folder(**{artifact: before}) as earlier:
        _run_trainer(run, phase, *folders, "--before", earlier, "--before-data", data)
    measured = EvaluateConfig(users=cfg.select_users, device=cfg.device, stream=cfg.stream)
    found = compare_phases(run.io.input("training_set"), artifact, folder, before, data, measured)
    if found["unmeasured"] or not found["differences"]:
        raise UserError(found["unmeasured"] or "The current one knows none of the validation targets.")
    it = found["differences"][cfg.select_metric]
    return {
        "from": digest, "epochs": _read(folder / "train_state.json")["epoch"], "metric": cfg.select_metric,
        "new": it["a"], "before": it["b"], "targets": found["targets"],
    }  # fmt: skip


def _run_trainer(run: StageRun, phase: str, *folders: str | Path) -> None:
    train = run.settings.train
    cfg = train.only(*TrainConfig.model_fields)
    run_model("train", "--phase", phase, *folders, config=cfg, processes=train.processes)


def _read(path: Path) -> dict[str, Any]:
    """Return what a JSON file of the trainer says; nothing without it."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        remove(path)
