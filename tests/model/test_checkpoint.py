"""The folder of a phase."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from data_lake.errors import UserError
from model.checkpoint import PhaseCheckpoint, Progress
from model.config import PHASES, TrainConfig
from model.data.training_set import TrainingSet
from model.evaluation.scoring import load_scorer
from model.training.phase_trainer import PhaseTrainer
from model.training.train import prepare, train
from model.weight_average import WeightAverage

PROGRESS = Progress(epoch=2, steps=14, loss=1.5, parts={"next_item": 1.25, "align": 2.5}, learning_rate=0.001)


def trained(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer, WeightAverage]:
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    average = WeightAverage(network, epochs=3)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return network, optimizer, average


def test_weights_their_average_and_optimizer_come_back(tmp_path: Path) -> None:
    folder = PhaseCheckpoint(tmp_path)
    network, optimizer, average = trained(1)
    folder.save_state(network, optimizer, average, PROGRESS)
    other, other_optimizer, other_average = trained(2)
    assert folder.load_state(other, other_optimizer, other_average) == PROGRESS
    assert all(torch.equal(average.mean[name], mean) for name, mean in other_average.mean.items())
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    expected, found = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert expected.keys() == found.keys()
    for index in expected:
        assert all(torch.equal(expected[index][name], found[index][name]) for name in expected[index])


def test_a_new_folder_has_no_state_and_no_history(tmp_path: Path) -> None:
    assert PhaseCheckpoint(tmp_path).load_state(*trained(1)) is None
    assert PhaseCheckpoint(tmp_path).history() == []


def test_a_folder_of_another_run_is_refused_by_the_setting_that_differs(tmp_path: Path) -> None:
    def config(epochs: int) -> dict[str, Any]:
        return {"train": {"seed": 0, "pretrain": {"epochs": epochs, "average_epochs": 4.0}}}

    PhaseCheckpoint(tmp_path).open(config(5), {})
    PhaseCheckpoint(tmp_path).open(config(5), {})
    with pytest.raises(UserError, match=r"train.pretrain.epochs 5 -> 6"):
        PhaseCheckpoint(tmp_path).open(config(6), {})


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\x00"])
def test_settings_that_cannot_be_read_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json is corrupted.*Delete its folder and train again"):
        PhaseCheckpoint(tmp_path).open({"train": {}}, {})


def test_a_write_that_dies_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PhaseCheckpoint(tmp_path)
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
        PhaseCheckpoint(tmp_path / name).save_state(*trained(1), PROGRESS)
        written.append({file: (tmp_path / name / file).read_bytes() for file in os.listdir(tmp_path / name)})
    assert written[0] == written[1]
    assert sorted(written[0]) == ["train_state.json", "train_state.safetensors"]


def test_phase_one_of_an_earlier_version_goes_on_under_the_new_names(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = without_average(small)
    train(tiny, small, "pretrain", tmp_path, tmp_path)
    before = scores(tiny, tmp_path)
    as_earlier(tmp_path)
    assert torch.equal(scores(tiny, tmp_path), before)
    capsys.readouterr()
    train(tiny, small, "pretrain", tmp_path, tmp_path)
    assert capsys.readouterr().err == "pretrain: 3 epochs are trained already\n"


def test_phase_two_of_an_earlier_version_is_refused_in_one_sentence(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path
) -> None:
    for phase, name in PHASES.items():
        train(tiny, small, phase, tmp_path / name, tmp_path / "pretrained")  # type: ignore[arg-type]
    with_trained_positions(tmp_path / "checkpoint")
    refused = (
        r"{} holds the weights of another network: tensor domain_adapters\.0\.positions\.weight is 8 x 8 in it, "
        "and missing in the network of its settings and items"
    )
    with pytest.raises(UserError, match=refused.format(r"model\.safetensors")):
        load_scorer(tmp_path / "checkpoint", tiny)
    with pytest.raises(UserError, match=refused.format(r"train_state\.safetensors")):
        train(tiny, small, "finetune", tmp_path / "checkpoint", tmp_path / "pretrained")


def with_trained_positions(folder: Path) -> None:
    """Give the domain adapters of a phase's files the positions that they had in earlier versions."""
    for name, prefix in (("model.safetensors", ""), ("train_state.safetensors", "weights.")):
        with safe_open(folder / name, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(folder / name)
        positions = tensors[f"{prefix}positions.weight"]
        own = {f"{prefix}domain_adapters.{number}.positions.weight": positions.clone() for number in range(2)}
        save_file(tensors | own, folder / name, metadata)


def test_a_state_of_an_earlier_version_is_loaded(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    def trainer() -> PhaseTrainer:
        return prepare(tiny, without_average(small), "pretrain", tmp_path, tmp_path)

    trainer().run()
    as_earlier(tmp_path)
    resumed = trainer()
    progress = resumed.checkpoint.load_state(resumed.network, resumed.optimizer, resumed.average, resumed.lazy)
    assert progress is not None
    assert (progress.epoch, set(progress.parts)) == (3, {"next_item", "align"})


STRANGE_SETTINGS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "15 GB of weights": ({"hidden": 16_000, "feedforward": 16_000}, r"tensor \S+ is [\d x]+ in it, and 16000 in the"),
    "a width that no network has": ({"hidden": 1_000_000}, r"\[train\.network\] hidden: .* or equal to 16384"),
    "no end of blocks": ({"blocks": 10**9}, r"\[train\.network\] blocks: .* less than or equal to 256, not 1000000000"),
    "no end of half-lives": ({"recency_half_lives": [1.0] * 99}, r"\[train\.network\] recency_half_lives: .* most 16"),
    "one block more": ({"blocks": 3}, r"tensor blocks\.2\.attention_norm\.bias is missing in it, and 8 in the network"),
    "one half-life less": ({"recency_half_lives": [5.0]}, r"recency_popularity\.weight is 2 x 4 in it, and 2 x 1 in"),
    "no settings": (None, r"config\.json: \[train\] network: input should be .*, not None"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE_SETTINGS)
def test_weights_of_other_settings_are_refused_before_a_network_is_made(
    trained_copy: tuple[TrainingSet, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = trained_copy
    settings, reason = STRANGE_SETTINGS[kind]
    change(folder, lambda config: config["train"].update(network=settings and config["train"]["network"] | settings))

    def never(*_: object) -> None:
        raise AssertionError("memory was taken")

    monkeypatch.setattr("model.evaluation.scoring.build_network", never)
    with pytest.raises(UserError, match=reason):
        load_scorer(folder, data)


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"profile_size": 10**9}, r"config\.json: profile_size: .* less than or equal to 65536"),
        ({"profile_size": 6}, r"tensor profile\.adapter\.up\.weight is 8 x 5 in it, and 8 x 6 in the network"),
        ({"items": 10**12}, r"was trained with items = 1000000000000, the data has 30"),
        ({"items": -1}, r"config\.json: items: .* greater than or equal to 0, not -1"),
        ({"domains": "ab"}, r"config\.json: domains: .*valid tuple"),
        ({"phase": "both"}, r"config\.json: phase: .*'pretrain' or 'finetune', not 'both'"),
        ({"train": []}, r"config\.json: train: "),
    ],
)
def test_what_a_stranger_says_of_weights_is_checked(
    trained_copy: tuple[TrainingSet, Path], about: dict[str, Any], reason: str
) -> None:
    data, folder = trained_copy
    change(folder, lambda config: config.update(about))
    with pytest.raises(UserError, match=reason):
        load_scorer(folder, data)


def test_a_missing_weight_is_named_with_the_shape_that_it_should_have(trained_copy: tuple[TrainingSet, Path]) -> None:
    data, folder = trained_copy
    tensors = load_file(folder / "model.safetensors")
    del tensors["norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        UserError, match=r"model\.safetensors .* tensor norm\.weight is missing in it, and 8 in the net"
    ):
        load_scorer(folder, data)


@pytest.fixture
def trained_copy(trained: tuple[Path, Path], tiny: TrainingSet, tmp_path: Path) -> tuple[TrainingSet, Path]:
    """A training set, and a copy of the folder of phase 2 of a run on it."""
    return tiny, Path(shutil.copytree(trained[1] / "checkpoint", tmp_path / "checkpoint"))


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    """Change what a folder's config.json says."""
    config = json.loads((folder / "config.json").read_text())
    how(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_setting_that_is_gone_is_named_where_it_did_something(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path
) -> None:
    train(tiny, small, "pretrain", tmp_path, tmp_path)
    as_earlier(tmp_path, text_dropout=0.1)
    with pytest.raises(UserError, match=r"config\.json: unknown setting \[train\.network\] text_dropout"):
        load_scorer(tmp_path, tiny)


def without_average(cfg: TrainConfig) -> TrainConfig:
    """Return the settings as earlier versions trained, whatever they were called."""
    return TrainConfig(**{**cfg.model_dump(), "pretrain": {**cfg.pretrain.model_dump(), "average_epochs": 1.0}})


def scores(data: TrainingSet, folder: Path) -> torch.Tensor:
    return load_scorer(folder, data)(np.arange(10), data.lengths[:10] - 1, "b")


def as_earlier(folder: Path, text_dropout: float = 0.0) -> None:
    """Rewrite the folder of phase 1 as the version before the renames wrote it."""
    config = json.loads((folder / "config.json").read_text())
    network, phase = config["train"]["network"], config["train"]["pretrain"]
    network |= {"id_start": network.pop("id_init"), "trends": network.pop("recency_half_lives")}
    network["text_dropout"] = text_dropout
    phase |= {"halve_after": phase.pop("lr_patience"), "warmup_steps": 0}
    del phase["average_epochs"]
    (folder / "config.json").write_text(json.dumps(config))
    new_names = {"recency_popularity.": "trends.", "lazy_adamw.": "rows."}
    for name in ("model.safetensors", "train_state.safetensors"):
        with safe_open(folder / name, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(folder / name)
        for new, old in new_names.items():
            tensors = {key.replace(new, old): tensor for key, tensor in tensors.items()}
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("average.")}
        save_file(tensors, folder / name, metadata)
