"""The simulated worlds that growth is measured on."""

from pathlib import Path

import numpy as np

from model.data.training_set import TrainingSet
from model.evaluation.candidates import find_targets
from tests.benchmarks.conftest import lines_of

SETTINGS = '{"threads": 1, "network": {"hidden": 8}, "pretrain": {"batch_size": 4}}'


def test_a_simulated_world_is_a_training_set_that_is_trained_on(tmp_path: Path) -> None:
    options = ("--sizes", "50x80", "--steps", "2", "--text-size", "4", "--settings", SETTINGS, "--out", tmp_path)
    heading, _, line = lines_of("growth", *options)
    assert heading == f"2 and 4 steps, text vectors of 4, settings {SETTINGS}"
    assert line.split()[:2] == ["50", "80"]
    data = TrainingSet.load(tmp_path / "50x80x4")
    assert (data.n_users, data.n_items, data.item_vectors.shape[1]) == (50, 80, 4)
    assert len(find_targets(data, "test")) == len(find_targets(data, "validation")) == 50
    assert data.train_actions.sum() == len(data.items) - 100
    for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True):
        assert (np.diff(data.times[start:end]) > 0).all()
