"""Losses against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model import losses


def softmax_by_hand(right: float, others: list[float]) -> float:
    return math.log(math.exp(right) + sum(map(math.exp, others))) - right


def test_softmax_by_hand_leaves_out_an_other_that_is_the_target() -> None:
    others = losses.Others(
        numbers=torch.tensor([7, 9]),
        query=torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        keys=torch.tensor([[1.0, 1.0], [0.0, 1.0]]),  # scores [[1, 0], [2, 2]]
        added=torch.tensor([[0.0, 0.0], [0.5, -0.5]]),
        moments=torch.tensor([0, 1]),
    )
    loss = losses.softmax(torch.tensor([0.5, 2.0]), torch.tensor([5, 9]), others, torch.tensor([1.0, 3.0]))
    by_hand = softmax_by_hand(0.5, [1.0, 0.0]) + 3 * softmax_by_hand(2.0, [2.5])
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)


def test_a_target_without_competitors_costs_nothing() -> None:
    alone = losses.Others(torch.tensor([4]), torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 1), torch.tensor([0]))
    assert float(losses.softmax(torch.tensor([3.0]), torch.tensor([4]), alone, torch.ones(1))) == 0.0


def test_scores_of_any_size_give_a_finite_loss() -> None:
    large = losses.Others(
        torch.tensor([1, 2]), torch.eye(2) * 1e4, torch.eye(2), torch.zeros(1, 2), torch.zeros(2).long()
    )
    loss = losses.softmax(torch.tensor([2e4, 0.0]), torch.tensor([5, 6]), large, torch.ones(2))
    assert float(loss) == pytest.approx(1e4)


TARGET, AT = torch.tensor([0, 3, 3, 8, 1]), torch.tensor([1, 0, 2, 2, 1])


def drawn_parts(moments: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return query (5, 4), items (9, 4) and what the moments add (moments, 9)."""
    generator = torch.Generator().manual_seed(1)
    parts = (torch.randn(shape, generator=generator) for shape in ((5, 4), (9, 4), (moments, 9)))
    query, items, added = (part.requires_grad_() for part in parts)
    return query, items, added


@pytest.mark.parametrize("moments", [1, 3])
@pytest.mark.parametrize("at_once", [1, 20, 10**6])
def test_softmax_over_all_items_and_its_gradients_are_those_of_cross_entropy(
    at_once: int, moments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "SCORES_AT_ONCE", at_once)
    weight, at = torch.linspace(0.1, 1, 5), AT.clamp(max=moments - 1)
    query, items, added = drawn_parts(moments)
    own = (query * items[TARGET]).sum(1) + added[at, TARGET]
    loss = losses.softmax(own, TARGET, losses.Others(torch.arange(9), query, items, added, at), weight)
    (2 * loss).backward()
    plain_query, plain_items, plain_added = drawn_parts(moments)
    scores = plain_query @ plain_items.T + plain_added[at]
    plain = (F.cross_entropy(scores, TARGET, reduction="none") * weight).sum()
    (2 * plain).backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(query.grad, plain_query.grad)
    torch.testing.assert_close(items.grad, plain_items.grad)
    torch.testing.assert_close(added.grad, plain_added.grad)


def test_binary_loss_leaves_out_a_negative_that_is_the_target() -> None:
    right, wrong = torch.tensor([3.0, 2.0]), torch.tensor([-1.0, 2.0])
    by_hand = math.log(1 + math.exp(-3)) + math.log(1 + math.exp(-1)) + 2 * math.log(1 + math.exp(-2))
    loss = losses.binary(right, wrong, torch.tensor([False, True]), torch.tensor([1.0, 2.0]))
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)


def test_align_with_the_own_profile_is_infonce_in_both_directions() -> None:
    states = torch.tensor([[3.0, 0.0], [0.0, 5.0]])  # unit vectors e1, e2
    profiles = torch.tensor([[2.0, 0.0], [7.0, 0.0]])  # both e1; logits [[10, 10], [0, 0]] at temperature 0.1
    by_rows = math.log(2)  # each state sees two equal profiles
    by_columns = (math.log(1 + math.exp(-10)) + math.log(1 + math.exp(10))) / 2
    assert float(losses.align(states, profiles, "own", 0.1)) == pytest.approx((by_rows + by_columns) / 2, rel=1e-5)


def test_soft_align_shares_the_target_among_users_who_are_alike() -> None:
    states = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    profiles = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(losses.align(states, profiles, "soft", 0.1).detach()) == pytest.approx(math.log(2), rel=1e-6)


def cross_entropy_by_hand(logits: list[float], shares: list[float]) -> float:
    norm = math.log(sum(map(math.exp, logits)))
    return sum(share * (norm - logit) for logit, share in zip(logits, shares, strict=True))


def shares_by_hand(logits: list[float]) -> list[float]:
    whole = sum(map(math.exp, logits))
    return [math.exp(logit) / whole for logit in logits]


def test_soft_align_by_hand() -> None:
    states = torch.tensor([[2.0, 0.0], [0.0, 3.0]])  # unit vectors e1, e2
    profiles = torch.tensor([[5.0, 0.0], [3.0, 4.0]])  # (1, 0), (.6, .8); at temperature 0.5:
    logits, columns = [[2.0, 1.2], [0.0, 1.6]], [[2.0, 0.0], [1.2, 1.6]]
    alike = [[(1 + 1) / 1.0, 0.6 / 1.0], [0.6 / 1.0, (1 + 1) / 1.0]]
    shares = [shares_by_hand(row) for row in alike]
    both = [*zip(logits, shares, strict=True), *zip(columns, shares, strict=True)]
    by_hand = sum(cross_entropy_by_hand(row, share) for row, share in both) / 4
    assert float(losses.align(states, profiles, "soft", 0.5)) == pytest.approx(by_hand, rel=1e-6)


def test_the_release_form_by_hand_has_no_unit_vectors() -> None:
    states, profiles = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    logits, columns = [[1.0, 0.0], [2.0, 2.0]], [[1.0, 2.0], [0.0, 2.0]]
    alike = [[(1 + 2) / 2, 1 / 2], [1 / 2, (4 + 1) / 2]]  # states: 1, 0, 4; profiles: 2, 1, 1
    shares = [shares_by_hand(row) for row in alike]
    both = [*zip(logits, shares, strict=True), *zip(columns, shares, strict=True)]
    by_hand = sum(cross_entropy_by_hand(row, share) for row, share in both) / 4
    assert float(losses.align(states, profiles, "release", 1.0)) == pytest.approx(by_hand, rel=1e-6)


def test_only_the_release_form_lets_gradients_through_its_targets() -> None:
    profiles = torch.tensor([[1.0, 0.5], [-0.3, 2.0]])
    grads = {}
    for form in ("soft", "release"):
        states = F.normalize(torch.tensor([[1.0, 0.2], [0.4, 1.0]]), dim=1).requires_grad_()
        unit = F.normalize(profiles, dim=1)
        losses.align(states, unit, form, 1.0).backward()  # type: ignore[arg-type]
        grads[form] = states.grad
    assert not torch.allclose(grads["soft"], grads["release"])
