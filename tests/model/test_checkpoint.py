"""The folder of a phase."""

import json
import os
from pathlib import Path

import pytest
import torch

from data_lake.errors import UserError
from model.checkpoint import Folder, Progress

PROGRESS = Progress(epoch=2, steps=14, loss=1.5, next_item_loss=1.25, align_loss=2.5, learning_rate=0.001)


def trained(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return network, optimizer


def test_weights_and_optimizer_come_back(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    network, optimizer = trained(1)
    folder.save_state(network, optimizer, PROGRESS)
    other, other_optimizer = trained(2)
    assert folder.load_state(other, other_optimizer) == PROGRESS
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    wanted, found = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert wanted.keys() == found.keys()
    for index in wanted:
        assert all(torch.equal(wanted[index][name], found[index][name]) for name in wanted[index])


def test_a_new_folder_has_no_state_and_no_history(tmp_path: Path) -> None:
    network, optimizer = trained(1)
    assert Folder(tmp_path).load_state(network, optimizer) is None
    assert Folder(tmp_path).history() == []


def test_a_folder_of_another_run_is_refused_by_the_setting_that_differs(tmp_path: Path) -> None:
    Folder(tmp_path).open({"train": {"seed": 0, "pretrain": {"epochs": 5}}}, {})
    Folder(tmp_path).open({"train": {"seed": 0, "pretrain": {"epochs": 5}}}, {})
    with pytest.raises(UserError, match=r"train.pretrain.epochs 5 -> 6"):
        Folder(tmp_path).open({"train": {"seed": 0, "pretrain": {"epochs": 6}}}, {})


def test_a_write_that_dies_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    folder.write_json("metrics.json", {"value": 1})

    def die(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            folder.write_json("metrics.json", {"value": 2})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"value": 1}
    folder.open({}, {})
    assert not list(tmp_path.glob("*.tmp"))


def test_the_same_state_is_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        network, optimizer = trained(1)
        Folder(tmp_path / name).save_state(network, optimizer, PROGRESS)
        written.append({file: (tmp_path / name / file).read_bytes() for file in os.listdir(tmp_path / name)})
    assert written[0] == written[1]
    assert sorted(written[0]) == ["train_state.json", "train_state.safetensors"]
