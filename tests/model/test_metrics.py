import doctest

import numpy as np
import pytest

from model.evaluation import metrics
from model.evaluation.metrics import METRIC_NAMES, compute_metrics, interval, resampled_sums


def test_values_of_ranks_worked_by_hand():
    assert METRIC_NAMES == ("HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR")
    expected = [
        [1, 1, 1, 1, 1],
        [1, 1, 0.5, 0.5, 1 / 3],
        [1, 1, 0.386852807, 0.386852807, 0.2],  # 1 / log2(6)
        [0, 1, 0, 0.356207187, 1 / 6],  # 1 / log2(7)
        [0, 1, 0, 0.289064826, 0.1],  # 1 / log2(11)
        [0, 0, 0, 0, 1 / 11],
    ]
    assert compute_metrics(np.array([1, 3, 5, 6, 10, 11], np.int32)) == pytest.approx(np.array(expected))


def intervals(numbers: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    sums = resampled_sums(numbers, [np.arange(len(numbers))], 1000, seed)
    return interval(sums[0], numbers.mean(axis=0))


@pytest.mark.parametrize("users", [1, 2, 50])
def test_a_constant_has_an_interval_without_width(users: int):
    low, high = intervals(np.full((users, 2), [0.1, 1 / 3]))
    assert low == pytest.approx([0.1, 1 / 3], abs=1e-12)
    assert high == pytest.approx([0.1, 1 / 3], abs=1e-12)


def test_the_interval_of_a_share_is_that_of_the_binomial():
    low, high = intervals(np.repeat([[0.0], [1.0]], [600, 200], axis=0))
    width = 1.96 * np.sqrt(0.25 * 0.75 / 800)
    assert low == pytest.approx([0.25 - width], abs=0.004)
    assert high == pytest.approx([0.25 + width], abs=0.004)


def test_a_seed_repeats_and_the_pieces_leave_no_trace(monkeypatch: pytest.MonkeyPatch):
    numbers = np.random.default_rng(1).random((100, 3))
    parts = [np.arange(0, 100, 2), np.array([3, 98]), np.array([], np.int64)]
    whole = resampled_sums(numbers, parts, 20, 5)
    monkeypatch.setattr(metrics, "USERS_AT_ONCE", 7)
    assert resampled_sums(numbers, parts, 20, 5) == pytest.approx(whole)
    assert (whole[2] == 0).all()
    assert not np.allclose(resampled_sums(numbers, parts, 20, 6), whole)


def test_parts_share_their_draws_so_that_sums_of_disjoint_parts_add_up():
    numbers = np.random.default_rng(1).random((50, 2))
    sums = resampled_sums(numbers, [np.arange(20), np.arange(20, 50), np.arange(50)], 30, 0)
    assert sums[0] + sums[1] == pytest.approx(sums[2])


def test_the_worked_examples_of_the_docstrings_hold():
    found = doctest.testmod(metrics)
    assert (found.failed, found.attempted > 4) == (0, True)
