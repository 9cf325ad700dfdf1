"""Whole runs on a tiny training set."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from data_lake.errors import UserError
from data_lake.progress_display import FOR_ANOTHER, read_line
from data_lake.schemas import CHECKPOINT, PRETRAINED
from data_lake.tables import read_tables
from model.config import NextItem, TrainConfig
from model.data.training_set import TrainingSet
from model.evaluation.scoring import NetworkScorer, load_scorer
from model.loss.next_item import NEXT_ITEM_LOSSES
from model.loss.objective import EXTRA_TERMS, ExtraTerm
from model.loss.user_states import UserStates
from model.training.train import train
from tests.model.conftest import SMALL
from tests.model.worlds import world

ROOT = Path(__file__).parents[2]


def run(data: TrainingSet, cfg: TrainConfig, out: Path) -> None:
    train(data, cfg, "pretrain", out / "pretrained", out / "pretrained")
    train(data, cfg, "finetune", out / "checkpoint", out / "pretrained")


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def with_(cfg: TrainConfig, **sections: dict[str, object]) -> TrainConfig:
    given = cfg.model_dump()
    for name, values in sections.items():
        given[name] = given[name] | values
    return TrainConfig.model_validate(given)


def test_both_phases_write_all_that_they_promise(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    run(tiny, small, tmp_path)
    names = ["config.json", "history.parquet", "machine.json", "metrics.json", "model.safetensors", "train_state.json",
             "train_state.safetensors"]  # fmt: skip
    for folder, artifact, epochs in (("pretrained", PRETRAINED, 3), ("checkpoint", CHECKPOINT, 2)):
        assert sorted(os.listdir(tmp_path / folder)) == names
        history = read_tables(tmp_path / folder, artifact).to_pylist()
        assert [row["epoch"] for row in history] == list(range(1, epochs + 1))
        best = [row for row in history if row["best"]][-1]
        metrics = json.loads((tmp_path / folder / "metrics.json").read_text())
        assert metrics["epoch"] == best["epoch"]
        assert np.mean(list(metrics["MRR"].values())) == pytest.approx(best["value"], rel=1e-6)


def test_the_loss_falls(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    cfg = with_(small, pretrain={"epochs": 25, "patience": 25}, finetune={"epochs": 10, "patience": 10})
    run(tiny, cfg, tmp_path)
    losses = {
        folder: [row["next_item_loss"] for row in read_tables(tmp_path / folder, CHECKPOINT).to_pylist()]
        for folder in ("pretrained", "checkpoint")
    }
    assert losses["pretrained"][-1] < 0.7 * losses["pretrained"][0]
    assert losses["checkpoint"][-1] < losses["checkpoint"][0]


def test_a_seed_repeats_to_the_byte_and_another_does_not(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    run(tiny, small, tmp_path / "one")
    run(tiny, small, tmp_path / "two")
    run(tiny, small.model_copy(update={"seed": 1}), tmp_path / "other")
    one, two, other = files(tmp_path / "one"), files(tmp_path / "two"), files(tmp_path / "other")
    assert one == two
    assert one["pretrained/model.safetensors"] != other["pretrained/model.safetensors"]


def test_phase_two_leaves_phase_one_bit_identical(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    run(tiny, small, tmp_path)
    before = load_file(tmp_path / "pretrained/model.safetensors")
    last = load_file(tmp_path / "checkpoint/train_state.safetensors")
    for name, tensor in before.items():
        assert torch.equal(tensor, last[f"weights.{name}"]), name
    adapters = [name for name in last if name.startswith("weights.domain_adapters.")]
    assert len(adapters) == 2 * 7
    for name in adapters:  # what starts at a known value has left it
        start = torch.eye(8) if name.endswith("head.weight") else torch.zeros(())
        if last[name].ndim == 0:
            start = torch.tensor(small.finetune.domain_weight)
        assert not torch.equal(last[name], start.expand_as(last[name])), name


def test_a_finished_run_is_not_run_again(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    run(tiny, small, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    run(tiny, small, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_goes_on_with_other_threads_and_not_with_another_rate(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path
) -> None:
    train(tiny, small, "pretrain", tmp_path, tmp_path)
    before = files(tmp_path)
    train(tiny, small.model_copy(update={"threads": 2, "compile": True}), "pretrain", tmp_path, tmp_path)
    torch.set_num_threads(1)
    assert files(tmp_path) == before
    with pytest.raises(UserError, match=r"train.pretrain.learning_rate 0.01 -> 0.02"):
        train(tiny, with_(small, pretrain={"learning_rate": 0.02}), "pretrain", tmp_path, tmp_path)


def test_a_streamed_training_makes_the_same_bytes(
    tiny: TrainingSet, tiny_folder: Path, small: TrainConfig, tmp_path: Path
) -> None:
    cfg = with_(small, finetune={"align_weight": 0.5})
    run(tiny, cfg, tmp_path / "whole")
    run(TrainingSet.load(tiny_folder, stream=True), cfg.model_copy(update={"stream": True}), tmp_path / "streamed")
    assert files(tmp_path / "streamed") == files(tmp_path / "whole")


def test_other_settings_of_phase_two_do_not_touch_phase_one(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny, small, "pretrain", tmp_path, tmp_path)
    before = files(tmp_path)
    train(tiny, with_(small, finetune={"epochs": 1}), "pretrain", tmp_path, tmp_path)
    assert files(tmp_path) == before
    assert capsys.readouterr().err.endswith("pretrain: 3 epochs are trained already\n")


def test_phase_two_refuses_the_weights_of_another_network(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path
) -> None:
    train(tiny, small, "pretrain", tmp_path / "pretrained", tmp_path)
    other = with_(small, network={"recency_half_lives": (1.0, 2.0, 3.0, 4.0)})
    with pytest.raises(UserError, match=r"holds another network: recency_half_lives \[5\.0, .*\] -> \[1\.0, "):
        train(tiny, other, "finetune", tmp_path / "checkpoint", tmp_path / "pretrained")


def test_corrupted_weights_are_named(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    train(tiny, small, "pretrain", tmp_path, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"model\.safetensors is corrupted \(.*\)\. Delete its folder and train again"):
        load_scorer(tmp_path, tiny)


def test_training_stops_when_the_figure_stays_flat(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    cfg = with_(small, pretrain={"epochs": 50, "patience": 2, "learning_rate": 1e-12})
    train(tiny, cfg, "pretrain", tmp_path, tmp_path)
    assert [row["best"] for row in read_tables(tmp_path, PRETRAINED).to_pylist()] == [True, False, False]


def test_a_flat_figure_halves_the_learning_rate(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    cfg = with_(small, pretrain={"epochs": 5, "patience": 9, "learning_rate": 1e-12, "lr_patience": 2})
    train(tiny, cfg, "pretrain", tmp_path, tmp_path)
    rates = [row["learning_rate"] for row in read_tables(tmp_path, PRETRAINED).to_pylist()]
    assert rates == pytest.approx([1e-12, 1e-12, 1e-12, 5e-13, 5e-13])


def test_without_validation_targets_the_last_epoch_is_kept(small: TrainConfig, tmp_path: Path) -> None:
    data = world({"u": "a1 b1 a2", "v": "b1 a1 b2", "w": "a1 a2"}, {"a": "a1 a2", "b": "b1 b2"})
    train(data, small, "pretrain", tmp_path, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["epoch"] == 3


def test_tensorboard_gets_event_files_outside_the_run(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tiny, small, "pretrain", tmp_path / "run", tmp_path, tmp_path / "board")
    assert list((tmp_path / "board").glob("events.out.tfevents.*"))
    assert not [name for name in os.listdir(tmp_path / "run") if "events" in name]


def test_every_switch_trains(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    short = {"epochs": 1}
    for number, sections in enumerate(
        (
            {"loss": {"next_item": "bce"}},
            {"loss": {"negatives": 0, "align": "release"}},
            {"loss": {"popularity": 1.0, "synthetic_weight": 0.5}},
            {"network": {"score": "dot", "temperature": 1.0, "item_id": False}},
            {"network": {"item_text": False, "mark_synthetic": False}},
            {"network": {"text_layers": 2, "input_scaled": True}},
            {"pretrain": {"clip": 0.1}, "finetune": {"align_weight": 0.5, "train_score": "domain"}},
        )
    ):
        run(tiny, with_(with_(small, pretrain=short, finetune=short), **sections), tmp_path / str(number))


def test_a_new_term_of_the_loss_is_a_function_and_a_line(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def length(users: UserStates) -> torch.Tensor:
        return users.states.norm(dim=1).mean()

    monkeypatch.setitem(EXTRA_TERMS, "length", ExtraTerm(length, lambda phase: 0.5))
    run(tiny, small, tmp_path)
    for folder, artifact in (("pretrained", PRETRAINED), ("checkpoint", CHECKPOINT)):
        row = read_tables(tmp_path / folder, artifact).to_pylist()[0]
        assert row["length_loss"] > 0
        assert json.loads((tmp_path / folder / "train_state.json").read_text())["length_loss"] > 0
        aligned = 0.02 * row["align_loss"] if folder == "pretrained" else 0.0
        assert row["loss"] == pytest.approx(row["next_item_loss"] + aligned + 0.5 * row["length_loss"], rel=1e-5)
    assert re.search(r"\(next_item \d+\.\d+, align \d+\.\d+, length \d+\.\d+\)", capsys.readouterr().err)


def test_every_name_of_the_setting_is_a_next_item_loss() -> None:
    assert set(NEXT_ITEM_LOSSES) == set(get_args(NextItem))


@pytest.mark.parametrize("preset", ["default", "release"])
def test_settings_keep_their_old_names(preset: str) -> None:
    given = {"preset": preset, "network": {"id_start": "random", "trends": [3.0]}, "finetune": {"halve_after": 7}}
    with pytest.warns(FutureWarning) as warned:
        cfg = TrainConfig.model_validate(given)
    assert (cfg.network.id_init, cfg.network.recency_half_lives, cfg.finetune.lr_patience) == ("random", (3.0,), 7)
    assert [str(each.message).split(";")[0] for each in warned] == [
        "setting id_start is now called id_init", "setting trends is now called recency_half_lives",
        "setting halve_after is now called lr_patience",
    ]  # fmt: skip


def test_the_release_preset_is_a_full_set_of_values_that_others_override() -> None:
    cfg = TrainConfig.model_validate({"preset": "release", "pretrain": {"epochs": 3}})
    assert (cfg.network.heads, cfg.network.bottleneck, cfg.network.text_layers) == (1, 32, 2)
    assert (cfg.loss.next_item, cfg.loss.synthetic_weight) == ("bce", 1)
    assert (cfg.pretrain.epochs, cfg.pretrain.batch_size, cfg.pretrain.patience) == (3, 512, 35)
    assert (cfg.finetune.learning_rate, cfg.finetune.clip, cfg.finetune.train_score) == (1e-4, 0.1, "domain")
    assert not cfg.network.item_id


def test_release_with_ids_differs_in_the_id_vectors_alone() -> None:
    release, ids = (TrainConfig.model_validate({"preset": name}) for name in ("release", "release+ids"))
    assert ids.network.item_id
    assert ids.network.model_copy(update={"item_id": False}) == release.network
    assert ids.model_copy(update={"preset": "release", "network": release.network}) == release


def test_the_paper_preset_is_the_old_name_of_release() -> None:
    with pytest.warns(FutureWarning, match='preset "paper" is now called "release"'):
        cfg = TrainConfig.model_validate({"preset": "paper"})
    assert cfg == TrainConfig.model_validate({"preset": "release"})


def test_the_scorer_of_a_run_reads_its_best_weights(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    run(tiny, small, tmp_path)
    users, lengths = np.arange(5), np.full(5, 4)
    one = load_scorer(tmp_path / "pretrained", tiny)(users, lengths, "b")
    two = load_scorer(tmp_path / "checkpoint", tiny)(users, lengths, "b")
    assert one.shape == two.shape == (5, 15)
    assert one.dtype == torch.float32
    assert not torch.equal(one, two)


def test_weights_of_other_data_are_refused(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    run(tiny, small, tmp_path)
    other = world({"u": "a1 a2 a1"}, {"a": "a1 a2", "b": "b1"})
    with pytest.raises(UserError, match="was trained with items = 30, the data has 3"):
        load_scorer(tmp_path / "checkpoint", other)


def test_weights_of_other_items_of_the_same_number_are_refused(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path
) -> None:
    run(tiny, small, tmp_path)
    other = dataclasses.replace(tiny, item_ids=tiny.item_ids.take(pa.array([0, *range(30, 0, -1)])))
    with pytest.raises(UserError, match=r"pretrained was trained with other items than those of the data"):
        train(other, small, "finetune", tmp_path / "again", tmp_path / "pretrained")
    with pytest.raises(UserError, match=r"checkpoint was trained with other items than those of the data"):
        load_scorer(tmp_path / "checkpoint", other)


def test_phase_two_does_not_go_on_over_another_phase_one(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    run(tiny, small, tmp_path)
    train(tiny, with_(small, pretrain={"learning_rate": 0.02}), "pretrain", tmp_path / "other", tmp_path)
    with pytest.raises(UserError, match=r"checkpoint holds another run: pretrained \w+ -> \w+"):
        train(tiny, small, "finetune", tmp_path / "checkpoint", tmp_path / "other")


def test_the_domain_weight_is_learnt_or_stays(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    for learnt in (True, False):
        out = tmp_path / str(learnt)
        run(tiny, with_(small, finetune={"domain_weight": 0.5, "domain_weight_learnt": learnt}), out)
        weights = load_file(out / "checkpoint/train_state.safetensors")
        assert (weights["weights.domain_adapters.0.weight"] == 0.5) == (not learnt)


def test_an_epoch_tells_its_loss_speed_and_time_left(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny, small, "pretrain", tmp_path, tmp_path)
    row = read_tables(tmp_path, PRETRAINED).to_pylist()[0]
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(
        f"pretrain epoch 1/3: loss {row['loss']:.4f} (next_item {row['next_item_loss']:.4f}, align "
    )
    assert re.search(r", \d+ sequences/s, at most \d+\.\d min left in this phase, validation full MRR: a 0\.", first)


def test_a_training_prints_how_its_epochs_go_for_the_process_that_waits(
    tiny: TrainingSet,
    small: TrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.training.report.TOLD_EVERY", 0.0)
    monkeypatch.setattr("data_lake.progress.LOOK_SECONDS", 0.001)
    monkeypatch.setenv(FOR_ANOTHER, "1")
    train(tiny, small, "pretrain", tmp_path, tmp_path)
    views = [view for line in capsys.readouterr().out.splitlines() for view in read_line(line) or ()]
    assert {(view.what, view.total, view.unit) for view in views if view.what == "training"} == {
        ("training", 3, "epochs")
    }
    assert any(re.fullmatch(r"loss \d+\.\d{4}, \d+ sequences/s", view.note) for view in views if view.unit == "steps")


def test_phase_two_needs_phase_one(tiny: TrainingSet, small: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Run the phase 'pretrain' first"):
        train(tiny, small, "finetune", tmp_path / "checkpoint", tmp_path / "pretrained")


def command(folder: Path, out: Path, config: Path) -> list[str]:
    return [sys.executable, "-m", "model", "train", "--data", str(folder), "--out", str(out), "--config", str(config)]


@pytest.mark.parametrize("phase", [pytest.param("pretrain", marks=pytest.mark.slow), "finetune"])
def test_a_killed_run_goes_on_to_the_same_bytes(tiny_folder: Path, tmp_path: Path, phase: str) -> None:
    config = tmp_path / "train.json"
    config.write_text(json.dumps(SMALL | {phase: SMALL[phase] | {"epochs": 30, "patience": 30}}))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    child = subprocess.Popen(command(tiny_folder, killed, config), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    seen = next(line for line in child.stderr if f"{phase} epoch 3/30" in line)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, seen
    assert (killed / "checkpoint").exists() == (phase == "finetune")
    child.stderr.close()
    subprocess.run(command(tiny_folder, whole, config), cwd=ROOT, check=True, capture_output=True)
    again = subprocess.run(command(tiny_folder, killed, config), cwd=ROOT, check=True, capture_output=True, text=True)
    assert f"{phase} epoch 2/30" not in again.stderr
    assert files(killed) == files(whole)


def test_a_run_that_dies_between_saving_and_evaluating_loses_nothing(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny, small, "pretrain", tmp_path / "whole", tmp_path)
    scorers = iter([NetworkScorer])

    def dying(*arguments: Any) -> NetworkScorer:
        try:
            return next(scorers)(*arguments)
        except StopIteration:
            raise KeyboardInterrupt from None  # at the second evaluation

    with monkeypatch.context() as patch:
        patch.setattr("model.training.phase_trainer.NetworkScorer", dying)
        with pytest.raises(KeyboardInterrupt):
            train(tiny, small, "pretrain", tmp_path / "dead", tmp_path)
    assert json.loads((tmp_path / "dead/train_state.json").read_text())["epoch"] == 2
    train(tiny, small, "pretrain", tmp_path / "dead", tmp_path)
    assert files(tmp_path / "dead") == files(tmp_path / "whole")


def test_two_processes_with_the_same_global_batch_give_the_curve_of_one(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "train.json"
    still = {"dropout": 0.0, "input_dropout": 0.0, "item_dropout": 0.0, "bottleneck_dropout": 0.0}
    aligned = {"network": SMALL["network"] | still, "finetune": SMALL["finetune"] | {"align_weight": 0.5}}
    config.write_text(json.dumps(SMALL | aligned | {"aggregate": "gate", "select_metric": "NDCG@10"}))
    subprocess.run(command(tiny_folder, tmp_path / "one", config), cwd=ROOT, check=True, capture_output=True)
    launch = [sys.executable, "-m", "model.ranks", "2", "-m", "model"]
    two = launch + command(tiny_folder, tmp_path / "two", config)[3:]
    subprocess.run(two, cwd=ROOT, check=True, capture_output=True)
    for folder in ("pretrained", "checkpoint"):
        one, two_ = (read_tables(tmp_path / n / folder, CHECKPOINT).to_pydict() for n in ("one", "two"))
        assert one["next_item_loss"] == pytest.approx(two_["next_item_loss"], rel=1e-5)
        assert one["align_loss"] == pytest.approx(two_["align_loss"], rel=1e-5)
        assert one["value"] == pytest.approx(two_["value"], rel=1e-3)


def test_neither_a_query_nor_the_time_of_an_order_changes_what_is_learnt(small: TrainConfig, tmp_path: Path) -> None:
    trained = {"a": "f1 f2 k1", "b": "f2 k2 f3", "c": "k1 f1"}
    items = {"food": "f1 f2 f3", "kitchen": "k1 k2"}
    queries = {"v": "f1:context k1:context f2:validation", "t": "f3:context f2:test"}
    others = {"v": "k2:context f3:validation", "t": "k1:context k1:context k1:context k2:test"}
    later = {user: " ".join(f"{item}@{9 ** place}" for place, item in enumerate(items.split()))
             for user, items in trained.items()}  # fmt: skip
    cfg = with_(small, loss={"half_after_days": 1e-3}, pretrain={"epochs": 1})
    weights = []
    for number, users in enumerate((trained | queries, trained | others, later | queries)):
        data, folder = world(users, items, times="order"), tmp_path / str(number)
        run(data, cfg, folder)
        train_state = load_file(folder / "pretrained" / "train_state.safetensors")
        weights.append({name: tensor.tolist() for name, tensor in train_state.items() if name.startswith("weights.")})
    assert weights[0] == weights[1] == weights[2]
    held = json.loads((folder / "checkpoint" / "config.json").read_text())["train"]
    assert (held["network"]["recency_half_lives"], held["loss"]["half_after_days"]) == ([], 0)
    load_scorer(folder / "checkpoint", data)(np.array([3, 4]), np.array([2, 1]), "food")
