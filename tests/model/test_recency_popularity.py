"""Recency popularity: counts by hand, and what a score may know."""

import math

import numpy as np
import pytest
import torch

from model.config import NetworkConfig
from model.data.sequences import Sequences
from model.data.training_set import DAY, TrainingSet
from model.evaluation.scoring import NetworkScorer
from model.network.network import build_network
from model.network.recency_popularity import RecencyPopularity, log_counts
from tests.model.worlds import world

ITEMS = {"a": "a1 a2 a3", "b": "b1 b2"}  # numbers 1, 2, 3 and 4, 5


def counted(recency: RecencyPopularity, item: int, time: int) -> list[float]:
    """Return the counts of an item, by half-life, that a prediction at a time sees."""
    time_bin = int(recency.time_bins(torch.tensor([time])))
    return torch.expm1(recency.counts[item, time_bin].double()).tolist()


def test_an_action_counts_half_after_each_half_life() -> None:
    parts = [(np.array([3 * DAY, 0]), np.array([2, 1])), (np.array([2 * DAY]), np.array([1]))]
    counts = log_counts(parts, np.array([0, 4 * DAY]), 2.0, 3)
    assert counts[:, 0].tolist() == [0, 0, 0]  # an action at the time of an edge is not before it
    by_hand = [0, math.log1p(0.5**2 + 0.5), math.log1p(0.5**0.5)]
    assert counts[:, 1].tolist() == pytest.approx(by_hand, rel=1e-6)


def test_a_count_fades_from_bin_to_bin_as_it_would_at_once() -> None:
    actions = [(np.array([-9, -6, -6, -2]) * DAY, np.array([1, 1, 1, 1]))]  # times before 1970 are times
    often = log_counts(actions, np.array([-8, -7, -4, 0]) * DAY, 3.0, 2)
    once = log_counts(actions, np.array([0]), 3.0, 2)
    assert often[1, 3].item() == pytest.approx(once[1, 0].item(), rel=1e-6)


def test_a_count_holds_only_training_actions_before_its_time_bin() -> None:
    data = world({"u": f"a1@0 a1@{DAY} *a2@{DAY} a1@{2 * DAY}:validation", "v": f"a2@{DAY} a3@{2 * DAY}"}, ITEMS)
    recency = RecencyPopularity.of(data, (1e9,))
    assert counted(recency, 1, 0) == [0]  # not its own action
    assert counted(recency, 1, DAY) == pytest.approx([1], rel=1e-2)
    assert counted(recency, 2, DAY) == [0]
    assert [counted(recency, item, 2 * DAY)[0] for item in (1, 2, 3)] == pytest.approx([2, 1, 0], rel=1e-2)


@pytest.mark.parametrize(("most", "edges"), [(100, [5, 6, 7, 9, 10]), (3, [5, 6, 9, 10])])
def test_bin_edges_stand_among_the_training_actions_and_after_all(
    most: int, edges: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.network.recency_popularity.TIME_BINS", most)
    data = world({"u": "a1@5 a1@6 a1@9 a1@11:test", "v": "a1@5 *a2@6 a1@7 a1@9"}, ITEMS)
    assert RecencyPopularity.of(data, (1.0,)).bin_edges.tolist() == edges


def added_popularity(data: TrainingSet, user: int, prefix_length: int) -> list[float]:
    """Return what is added to the scores of domain "a" by counts that do not fade, weighing 1."""
    network = build_network(NetworkConfig(hidden=4, recency_half_lives=(1e9,), temperature=1.0), data, 0).eval()
    assert network.recency_popularity is not None

    def scores() -> torch.Tensor:
        sequences = Sequences(data, 4, torch.device("cpu"))
        return NetworkScorer(network, data, sequences)(np.array([user]), np.array([prefix_length]), "a")[0]

    before = scores()
    torch.nn.init.ones_(network.recency_popularity.weight)
    added: list[float] = torch.expm1(scores() - before).tolist()
    return added


def test_a_target_is_scored_by_what_was_chosen_before_the_last_item_that_is_read() -> None:
    data = world({"u": "a1@1 a1@2 a2@7:validation a3@9:test", "v": "a2@1 a2@2 a3@3 a1@7"}, ITEMS)
    assert added_popularity(data, 0, 2) == pytest.approx([1, 1, 0], abs=0.01)  # read until 2
    assert added_popularity(data, 0, 3) == pytest.approx([2, 2, 1], abs=0.01)  # read until 7


def test_who_is_read_whole_is_scored_now_by_all_that_was_chosen() -> None:
    data = world({"u": "a1@1 a1@2 a2@5:validation a3@6:test", "v": "a2@1 a2@2 a3@3 a1@7"}, ITEMS)
    assert added_popularity(data, 0, 4) == pytest.approx([3, 3, 2], abs=0.01)


def test_where_the_split_is_by_time_every_target_is_scored_at_the_end_of_training() -> None:
    data = world({"u": "a1@1 a1@2 a2@8:validation a3@9:test", "v": "a2@1 a2@2 a3@3 a1@7"}, ITEMS)
    assert added_popularity(data, 0, 2) == pytest.approx([3, 2, 1], abs=0.01)


def test_without_training_actions_nothing_is_added() -> None:
    data = world({"u": "a1@1:validation a2@2:test"}, ITEMS)
    assert added_popularity(data, 0, 1) == [0, 0, 0]
