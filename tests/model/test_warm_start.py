"""A phase that goes on from the weights of last night."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_lake.errors import UserError
from data_lake.schemas import CHECKPOINT
from data_lake.tables import read_tables, write_parts
from model.__main__ import main
from model.checkpoint import PhaseCheckpoint, read_progress
from model.config import PHASES, TrainConfig
from model.data.training_set import TrainingSet
from model.network.id_init import LENGTH, cooccurrence_vectors
from model.training.phase_trainer import PhaseName, PhaseTrainer
from model.training.train import prepare, train
from model.training.warm_start import IDS, WarmStart, warm_epochs
from tests.model.conftest import SMALL, tiny_tables
from tests.model.worlds import world

LAST = world(
    {"u": "a1 b1 a2 b2 a1:validation", "v": "b2 a3 b1 a1 b2:validation", "w": "a2 b2 a3 a4:validation"},
    {"a": "a1 a2 a3 a4", "b": "b1 b2"},
)
TONIGHT = world(
    {
        "new": "a4 b2 a5 b1 a3:validation", "u": "a1 b1 a2 b2 a1 b2:validation", "v": "b2 a3 b1 a1 b2 a5:validation",
        "w": "a2 b2 a3 a4 a5 a1:validation",
    },
    {"a": "a5 a4 a3 a2 a1", "b": "b2 b1"},
)  # fmt: skip
"""Items have other numbers, a5 is new, a4 was known, but only as a target."""
KEPT = ("a1", "a2", "a3", "b1", "b2")
NETWORK: Any = SMALL["network"]


@pytest.fixture
def cfg() -> TrainConfig:
    return TrainConfig.model_validate(
        SMALL | {"network": NETWORK | {"hidden": 4}, "pretrain": {"epochs": 3, "batch_size": 2}}
    )


@pytest.fixture
def last(cfg: TrainConfig, tmp_path: Path) -> Path:
    """The run of last night, both phases."""
    return run(LAST, cfg, tmp_path / "last")


def run(data: TrainingSet, cfg: TrainConfig, out: Path, before: Path | None = None) -> Path:
    for phase, name in PHASES.items():
        warm = WarmStart(before / name, LAST, data) if before else None
        train(data, cfg, phase, out / name, out / "pretrained", warm=warm)  # type: ignore[arg-type]
    return out


def started(cfg: TrainConfig, last: Path, out: Path, phase: PhaseName = "pretrain") -> PhaseTrainer:
    """Return a trainer that stands where last night stopped."""
    warm = WarmStart(last / PHASES[phase], LAST, TONIGHT)
    trainer = prepare(TONIGHT, cfg, phase, out / PHASES[phase], out / "pretrained", warm=warm)
    if not trainer.checkpoint.has_state():
        warm.load(trainer.network, trainer.optimizer, trainer.average, trainer.lazy)
    return trainer


def row(data: TrainingSet, item: str) -> int:
    return int(data.item_ids.to_pylist().index(item))


def test_known_items_keep_their_vectors_and_the_network_its_weights_and_the_mean_of_both(
    cfg: TrainConfig, last: Path, tmp_path: Path
) -> None:
    trainer = started(cfg, last, tmp_path)
    held = load_file(last / "pretrained/train_state.safetensors")
    for prefix, found in (("weights.", trainer.network.state_dict()), ("average.", trainer.average.mean)):
        for item in KEPT:
            assert torch.equal(found[IDS][row(TONIGHT, item)], held[prefix + IDS][row(LAST, item)]), item
        for name in found.keys() - {IDS}:
            assert torch.equal(found[name], held[prefix + name]), name


def test_a_new_item_stands_to_the_known_ones_as_its_neighbours_say(
    cfg: TrainConfig, last: Path, tmp_path: Path
) -> None:
    initial = LENGTH * cooccurrence_vectors(TONIGHT, 4, cfg.seed)
    turn = torch.linalg.qr(torch.randn((4, 4), generator=torch.Generator().manual_seed(3))).Q
    path = last / "pretrained/train_state.safetensors"
    held, progress = load_file(path), json.dumps(read_progress(path).to_json())
    for item in KEPT:  # as if last night had learnt nothing but to look from elsewhere
        held[f"weights.{IDS}"][row(LAST, item)] = initial[row(TONIGHT, item)] @ turn
    save_file(held, path, {"progress": progress})
    ids = started(cfg, last, tmp_path).network.state_dict()[IDS]
    for item in ("a4", "a5"):
        torch.testing.assert_close(ids[row(TONIGHT, item)], initial[row(TONIGHT, item)] @ turn)


def test_the_optimisers_go_on_and_know_nothing_of_new_items(cfg: TrainConfig, last: Path, tmp_path: Path) -> None:
    trainer = started(cfg, last, tmp_path)
    assert trainer.lazy is not None
    held = load_file(last / "pretrained/train_state.safetensors")
    for number, state in trainer.optimizer.state_dict()["state"].items():
        for name, moment in state.items():
            assert torch.equal(moment, held[f"optimizer.{number}.{name}"])
    for name, moments in trainer.lazy.state().items():
        for item in KEPT:
            assert torch.equal(moments[row(TONIGHT, item)], held[f"lazy_adamw.{name}"][row(LAST, item)])
        assert not moments[[row(TONIGHT, "a4"), row(TONIGHT, "a5")]].any()
    assert trainer.lazy.steps == json.loads((last / "pretrained/train_state.json").read_text())["steps"]


def test_phase_two_keeps_its_adapters_over_tonights_phase_one(cfg: TrainConfig, last: Path, tmp_path: Path) -> None:
    started(cfg, last, tmp_path).run()
    network = started(cfg, last, tmp_path, "finetune").network.state_dict()
    held = load_file(last / "checkpoint/train_state.safetensors")
    below = load_file(tmp_path / "pretrained/model.safetensors")
    for name, weight in network.items():
        is_adapter = name.startswith("domain_adapters.")
        assert torch.equal(weight, held[f"weights.{name}"] if is_adapter else below[name]), name


def test_a_warm_phase_has_a_tenth_of_the_epochs() -> None:
    assert [warm_epochs(epochs) for epochs in (1, 6, 10, 11, 30, 200)] == [1, 1, 1, 2, 3, 20]


def test_both_phases_say_what_they_started_from(cfg: TrainConfig, last: Path, tmp_path: Path) -> None:
    run(TONIGHT, cfg, tmp_path / "now", last)
    for name in PHASES.values():
        assert len(read_tables(tmp_path / "now" / name, CHECKPOINT)) == 1
        config = PhaseCheckpoint(tmp_path / "now" / name).config()
        assert config["before"] == WarmStart(last / name, LAST, TONIGHT).digest
        assert "before" not in PhaseCheckpoint(last / name).config()


def test_a_warm_training_that_was_killed_goes_on_as_if_it_had_not_been(
    cfg: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = cfg.model_copy(update={"pretrain": cfg.pretrain.model_copy(update={"epochs": 11})})
    last = run(LAST, cfg, tmp_path / "last")
    started(cfg, last, tmp_path / "whole").run()
    trainer = started(cfg, last, tmp_path / "killed")
    monkeypatch.setattr(trainer, "_evaluate", killed)  # an epoch is saved, then evaluated
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    started(cfg, last, tmp_path / "killed").run()
    one, two = (tmp_path / name / "pretrained/train_state.safetensors" for name in ("whole", "killed"))
    assert one.read_bytes() == two.read_bytes()


def killed(*given: object) -> None:
    raise KeyboardInterrupt


def test_the_same_night_is_the_same_bytes(cfg: TrainConfig, last: Path, tmp_path: Path) -> None:
    one, two = (run(TONIGHT, cfg, tmp_path / name, last) for name in ("one", "two"))
    for name in PHASES.values():
        assert (one / name / "model.safetensors").read_bytes() == (two / name / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seed": 1}, "train.seed 0 -> 1"),
        ({"pretrain": {"epochs": 4, "batch_size": 2}}, "train.pretrain.epochs 3 -> 4"),
        ({"network": NETWORK | {"hidden": 8}}, "train.network.hidden 4 -> 8"),
    ],
)
def test_other_settings_do_not_start_warm(
    cfg: TrainConfig, last: Path, tmp_path: Path, change: dict[str, object], why: str
) -> None:
    other = TrainConfig.model_validate(cfg.model_dump() | change)
    with pytest.raises(UserError, match=f"The earlier pretrained does not fit: {why}; train without --before"):
        started(other, last, tmp_path)


def test_other_domains_do_not_start_warm(cfg: TrainConfig, last: Path, tmp_path: Path) -> None:
    other = world({"u": "a1 c1 a2 c1"}, {"a": "a1 a2", "c": "c1"})
    with pytest.raises(UserError, match=r"domains \['a', 'b'\] -> \['a', 'c'\]"):
        train(other, cfg, "pretrain", tmp_path / "out", tmp_path, warm=WarmStart(last / "pretrained", LAST, other))


def test_phase_two_does_not_start_warm_over_a_phase_one_from_scratch(
    cfg: TrainConfig, last: Path, tmp_path: Path
) -> None:
    train(TONIGHT, cfg, "pretrain", tmp_path / "pretrained", tmp_path / "pretrained")
    with pytest.raises(UserError, match="The earlier checkpoint stands on another phase 1 than the one that"):
        started(cfg, last, tmp_path, "finetune")


def test_weights_without_their_train_state_start_nothing(last: Path) -> None:
    (last / "pretrained/train_state.safetensors").unlink()
    with pytest.raises(UserError, match=r"The earlier pretrained holds no train_state\.safetensors"):
        WarmStart(last / "pretrained", LAST, TONIGHT)


def test_the_command_starts_both_phases_warm(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, before = trained
    (tmp_path / "train.json").write_text(json.dumps(SMALL))
    for name, table in tiny_tables(seed=1).items():
        write_parts(table, tmp_path / "tonight" / name)
    given = ["train", "--data", tmp_path / "tonight", "--out", tmp_path / "now", "--config", tmp_path / "train.json"]
    assert main([*map(str, given), "--before", str(before), "--before-data", str(data)]) == 0
    for name in PHASES.values():
        assert "before" in PhaseCheckpoint(tmp_path / "now" / name).config()


def test_an_earlier_run_is_told_with_its_data(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, before = map(str, trained)
    assert main(["train", "--data", data, "--out", str(tmp_path), "--before", before]) == 2
    assert capsys.readouterr().err == "error: --before and --before-data go together: give both or neither.\n"
