"""Losses against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.loss import softmax as module
from model.loss.align import align
from model.loss.binary import binary
from model.loss.scores import Negatives
from model.loss.softmax import softmax


def softmax_by_hand(positive: float, negatives: list[float]) -> float:
    return math.log(math.exp(positive) + sum(map(math.exp, negatives))) - positive


def test_softmax_by_hand_leaves_out_a_negative_that_is_the_target() -> None:
    negatives = Negatives(
        items=torch.tensor([7, 9]),
        query=torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        keys=torch.tensor([[1.0, 1.0], [0.0, 1.0]]),  # scores [[1, 0], [2, 2]]
        added=torch.tensor([[0.0, 0.0], [0.5, -0.5]]),
        time_bins=torch.tensor([0, 1]),
    )
    loss = softmax(torch.tensor([0.5, 2.0]), torch.tensor([5, 9]), negatives, torch.tensor([1.0, 3.0]))
    by_hand = softmax_by_hand(0.5, [1.0, 0.0]) + 3 * softmax_by_hand(2.0, [2.5])
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)


def test_a_target_without_competitors_costs_nothing() -> None:
    alone = Negatives(torch.tensor([4]), torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 1), torch.tensor([0]))
    assert float(softmax(torch.tensor([3.0]), torch.tensor([4]), alone, torch.ones(1))) == 0.0


def test_scores_of_any_size_give_a_finite_loss() -> None:
    large = Negatives(torch.tensor([1, 2]), torch.eye(2) * 1e4, torch.eye(2), torch.zeros(1, 2), torch.zeros(2).long())
    loss = softmax(torch.tensor([2e4, 0.0]), torch.tensor([5, 6]), large, torch.ones(2))
    assert float(loss) == pytest.approx(1e4)


TARGET, AT = torch.tensor([0, 3, 3, 8, 1]), torch.tensor([1, 0, 2, 2, 1])


def drawn_parts(time_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return query (5, 4), items (9, 4) and what the time_bins add (time_bins, 9)."""
    generator = torch.Generator().manual_seed(1)
    parts = (torch.randn(shape, generator=generator) for shape in ((5, 4), (9, 4), (time_bins, 9)))
    query, items, added = (part.requires_grad_() for part in parts)
    return query, items, added


@pytest.mark.parametrize("time_bins", [1, 3])
@pytest.mark.parametrize("at_once", [1, 20, 10**6])
def test_softmax_over_all_items_and_its_gradients_are_those_of_cross_entropy(
    at_once: int, time_bins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    weight, at = torch.linspace(0.1, 1, 5), AT.clamp(max=time_bins - 1)
    query, items, added = drawn_parts(time_bins)
    own = (query * items[TARGET]).sum(1) + added[at, TARGET]
    loss = softmax(own, TARGET, Negatives(torch.arange(9), query, items, added, at), weight)
    (2 * loss).backward()
    plain_query, plain_items, plain_added = drawn_parts(time_bins)
    scores = plain_query @ plain_items.T + plain_added[at]
    plain = (F.cross_entropy(scores, TARGET, reduction="none") * weight).sum()
    (2 * plain).backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(query.grad, plain_query.grad)
    torch.testing.assert_close(items.grad, plain_items.grad)
    torch.testing.assert_close(added.grad, plain_added.grad)


def plain_softmax(positive_logits: Tensor, target: Tensor, negatives: Negatives, weight: Tensor) -> Tensor:
    """The formula that the docstring of the hand-written gradient states."""
    items, query, keys, added, time_bins = negatives
    negative_logits = query @ keys.T + added[time_bins]
    negative_logits = negative_logits.masked_fill(items == target[:, None], -torch.inf)
    logits = torch.cat([positive_logits[:, None], negative_logits], dim=1)
    return (weight * (torch.logsumexp(logits, dim=1) - positive_logits)).sum()


@pytest.mark.parametrize("bins", [1, 3])
@pytest.mark.parametrize("at_once", [1, 20, 10**6])
def test_the_hand_written_gradient_is_that_of_the_plain_formula(
    at_once: int, bins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    numbers = torch.tensor([3, 11, 8, 8, 2, 5, 4, 7, 6])  # some are targets, one was drawn twice
    found = []
    for loss in (softmax, plain_softmax):
        query, keys, added = drawn_parts(bins)
        positive = torch.linspace(-2, 3, 5).requires_grad_()
        negatives = Negatives(numbers, query, keys, added, AT.clamp(max=bins - 1))
        value = loss(positive, TARGET, negatives, torch.linspace(0.1, 1, 5))
        (3 * value).backward()
        found.append([value.detach(), positive.grad, query.grad, keys.grad, added.grad])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


def test_binary_loss_leaves_out_a_negative_that_is_the_target() -> None:
    right, wrong = torch.tensor([3.0, 2.0]), torch.tensor([-1.0, 2.0])
    by_hand = math.log(1 + math.exp(-3)) + math.log(1 + math.exp(-1)) + 2 * math.log(1 + math.exp(-2))
    loss = binary(right, wrong, torch.tensor([False, True]), torch.tensor([1.0, 2.0]))
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)


def test_align_with_the_own_profile_is_infonce_in_both_directions() -> None:
    states = torch.tensor([[3.0, 0.0], [0.0, 5.0]])  # unit vectors e1, e2
    profiles = torch.tensor([[2.0, 0.0], [7.0, 0.0]])  # both e1; logits [[10, 10], [0, 0]] at temperature 0.1
    by_rows = math.log(2)  # each state sees two equal profiles
    by_columns = (math.log(1 + math.exp(-10)) + math.log(1 + math.exp(10))) / 2
    assert float(align(states, profiles, "own", 0.1)) == pytest.approx((by_rows + by_columns) / 2, rel=1e-5)


def cross_entropy_by_hand(logits: list[float], shares: list[float]) -> float:
    norm = math.log(sum(map(math.exp, logits)))
    return sum(share * (norm - logit) for logit, share in zip(logits, shares, strict=True))


def shares_by_hand(logits: list[float]) -> list[float]:
    whole = sum(map(math.exp, logits))
    return [math.exp(logit) / whole for logit in logits]


def test_the_release_form_by_hand_has_no_unit_vectors() -> None:
    states, profiles = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    logits, columns = [[1.0, 0.0], [2.0, 2.0]], [[1.0, 2.0], [0.0, 2.0]]
    alike = [[(1 + 2) / 2, 1 / 2], [1 / 2, (4 + 1) / 2]]  # states: 1, 0, 4; profiles: 2, 1, 1
    shares = [shares_by_hand(row) for row in alike]
    both = [*zip(logits, shares, strict=True), *zip(columns, shares, strict=True)]
    by_hand = sum(cross_entropy_by_hand(row, share) for row, share in both) / 4
    assert float(align(states, profiles, "release", 1.0)) == pytest.approx(by_hand, rel=1e-6)


def test_the_release_form_lets_gradients_through_its_targets() -> None:
    states = torch.tensor([[1.0, 0.2], [0.4, 1.0]], requires_grad=True)
    profiles = torch.tensor([[1.0, 0.5], [-0.3, 2.0]])
    align(states, profiles, "release", 1.0).backward()
    fixed = states.detach().clone().requires_grad_()
    target = ((fixed @ fixed.T + profiles @ profiles.T) / 2).softmax(dim=1).detach()
    logits = fixed @ profiles.T
    ((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2).backward()
    assert not torch.allclose(states.grad, fixed.grad)
