"""An earlier checkpoint beside a newer one, on targets that both know."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data_lake.errors import UserError
from model.__main__ import main
from model.config import EvaluateConfig, NetworkConfig
from model.data.sequences import Sequences
from model.data.training_set import TrainingSet
from model.evaluation.compare_checkpoints import compare_checkpoints, earlier_numbers
from model.evaluation.scoring import NetworkScorer
from model.network.network import build_network
from tests.model.worlds import key, world

CFG = EvaluateConfig(resamples=10)
NETWORK = NetworkConfig(
    hidden=4, feedforward=4, bottleneck=2, item_text=False, id_init="random", recency_half_lives=(), heads=1
)
FOODS = "f1 f2 f3 f4 f5 f6"
TONIGHT = {
    "u1": "f1 k1 f2 f3:validation f4:test",
    "u2": "k2 f5 f6:validation k1:test",
    "u3": "f2 k1 k2:validation f1:test",
}


def scorer_of(data: TrainingSet) -> NetworkScorer:
    """Return a network whose items have the same vectors whatever their numbers are."""
    torch.manual_seed(0)
    network = build_network(NETWORK, data, 0)
    ids = network.item_vectors.ids
    assert ids is not None
    for number, name in enumerate(data.item_ids.to_pylist()[1:], start=1):
        ids.weight.data[number] = torch.from_numpy(np.random.default_rng(key(name)).normal(size=4)).float()
    network.positions.weight.data.zero_()
    for parameter in [*network.blocks.parameters(), *network.heads.parameters()]:
        parameter.data.fill_(0.1)
    return NetworkScorer(network, data, Sequences(data, NETWORK.max_length, torch.device("cpu")))


def test_a_run_beside_itself_differs_in_nothing(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = map(str, trained)
    folders = ["--data", data, "--run", run, "--before-data", data, "--before", run]
    assert main(["compare", *folders, "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["targets"], found["unknown"], found["trained_on"], found["unmeasured"]) == (40, 0, 0, "")
    assert {each["difference"] for each in found["differences"].values()} == {0.0}
    assert found["differences"]["MRR"]["a"] > 0


def test_items_are_met_by_id_and_not_by_number() -> None:
    now = world(TONIGHT, {"food": FOODS, "kitchen": "k1 k2"})
    before = world({"u1": "k2 f1 f2"}, {"kitchen": "k2 k1", "food": "f6 f5 f4 f3 f2 f1"})
    found = compare_checkpoints(scorer_of(now), scorer_of(before), CFG)
    assert found.targets == 3
    assert {each.difference for each in found.differences.values()} == {0.0}
    assert 0 < found.differences["MRR"].a < 1


def test_an_item_that_the_earlier_one_does_not_know_is_no_target_and_no_candidate() -> None:
    now = world(TONIGHT, {"food": FOODS, "kitchen": "k1 k2"})
    before = world({"u1": "f1 f2"}, {"food": "f1 f2 f3", "kitchen": "k1 k2"})
    found = compare_checkpoints(scorer_of(now), scorer_of(before), CFG)
    assert (found.targets, found.unknown, found.trained_on) == (2, 1, 0)  # f6 of u2
    assert (found.differences["MRR"].a, found.differences["MRR"].b) == (1.0, 1.0)  # f1, f2 are history, as is k1 of u3


def test_a_target_that_the_earlier_one_was_trained_on_is_left_out() -> None:
    now = world(TONIGHT, {"food": FOODS, "kitchen": "k1 k2"})
    before = world({"u3": "f2 k1 k2", "u1": "f1 f3@9", "u2": "f6:test"}, {"food": FOODS, "kitchen": "k1 k2"})
    found = compare_checkpoints(scorer_of(now), scorer_of(before), CFG)
    assert (found.targets, found.trained_on) == (2, 1)  # u3's; u1 chose f3 at another time, u2's f6 was a target


def test_an_item_that_moved_to_another_domain_is_another_item() -> None:
    now = world({"u1": "a b:validation"}, {"food": "a b c", "kitchen": "k"})
    before = world({"u1": "a"}, {"kitchen": "b k", "food": "c a"})
    assert earlier_numbers(now, before).tolist() == [0, 4, 0, 3, 2]


def test_without_a_target_that_both_know_there_is_nothing_to_compare() -> None:
    now = world({"u1": "a b:validation"}, {"food": "a b"})
    found = compare_checkpoints(scorer_of(now), scorer_of(world({"u1": "c d"}, {"food": "c d"})), CFG)
    assert (found.differences, found.targets, found.unknown) == ({}, 0, 1)


def test_an_earlier_run_that_cannot_be_read_is_no_failure_but_unmeasured(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = map(str, trained)
    folders = ["--data", data, "--run", run, "--before-data", data, "--before", str(tmp_path)]
    assert main(["compare", *folders, "--out", str(tmp_path / "found.json")]) == 0
    assert "holds no trained phase" in json.loads((tmp_path / "found.json").read_text())["unmeasured"]


def test_a_newer_one_whose_scores_are_no_numbers_is_a_failure() -> None:
    data = world(TONIGHT, {"food": FOODS, "kitchen": "k1 k2"})
    diverged = scorer_of(data)
    diverged.vectors[1:] = float("nan")
    with pytest.raises(UserError, match="new checkpoint: the score of user"):
        compare_checkpoints(diverged, scorer_of(data), CFG)
    assert "earlier checkpoint: the score" in compare_checkpoints(scorer_of(data), diverged, CFG).unmeasured
