"""The frozen transformer's states in phase 2, held or computed anew."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.config import TrainConfig
from model.data.training_set import TrainingSet
from model.training.train import train

Usage = namedtuple("Usage", "total used free")


def leave_no_room(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shutil, "disk_usage", lambda folder: Usage(2**30, 2**30, 0))


@pytest.mark.parametrize("train_score", ["sum", "domain"])
def test_held_states_train_what_states_of_each_batch_train(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_score: str
) -> None:
    finetune = small.finetune.model_copy(update={"train_score": train_score, "align_weight": 0.5})
    cfg = small.model_copy(update={"finetune": finetune})
    train(tiny, cfg, "pretrain", tmp_path / "pretrained", tmp_path)
    train(tiny, cfg, "finetune", tmp_path / "held", tmp_path / "pretrained")
    leave_no_room(monkeypatch)
    train(tiny, cfg, "finetune", tmp_path / "anew", tmp_path / "pretrained")
    held, anew = (load_file(tmp_path / name / "train_state.safetensors") for name in ("held", "anew"))
    assert held.keys() == anew.keys()
    for name, tensor in held.items():
        torch.testing.assert_close(tensor, anew[name], rtol=1e-3, atol=1e-5)


def test_states_for_which_there_is_no_room_are_told(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    train(tiny, small, "pretrain", tmp_path / "pretrained", tmp_path)
    leave_no_room(monkeypatch)
    capsys.readouterr()
    train(tiny, small, "finetune", tmp_path / "checkpoint", tmp_path / "pretrained")
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("finetune: ")
    assert first.endswith(" has no room for 0 GiB of states, so each epoch computes them")
