"""Dropout as the CPU draws it, and attention with it."""

import pytest
import torch

from model.network.dropout import causal_attention, dropout


def test_what_stays_is_scaled_up_and_what_goes_is_zero() -> None:
    torch.manual_seed(0)
    assert sorted(set(dropout(torch.full((1000,), 3.0), 0.25).tolist())) == [0.0, 4.0]


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_the_rate_that_drops_out_is_the_given_one(rate: float) -> None:
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1_000_000), rate) == 0
    assert abs(float(dropped.double().mean()) - rate) < 0.002


def test_neighbours_drop_out_independently_of_each_other() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(1_000_000), 0.5) > 0).double() * 2 - 1
    for distance in range(1, 9):
        assert abs(float((kept[distance:] * kept[:-distance]).mean())) < 0.005


def test_each_call_draws_again_and_a_seed_repeats() -> None:
    torch.manual_seed(0)
    first, second = (dropout(torch.ones(3, 5, 7), 0.5) for _ in range(2))
    assert not first.equal(second)
    torch.manual_seed(0)
    assert dropout(torch.ones(3, 5, 7), 0.5).equal(first)


def test_the_gradient_passes_where_the_element_stayed() -> None:
    torch.manual_seed(0)
    states = torch.ones(1000, requires_grad=True)
    dropped = dropout(states, 0.5)
    dropped.sum().backward()  # type: ignore[no-untyped-call]
    assert states.grad is not None
    assert states.grad.equal(dropped.detach())


def test_a_rate_of_zero_drops_nothing() -> None:
    states = torch.arange(6.0)
    assert dropout(states, 0.0).equal(states)


def test_attention_that_drops_next_to_nothing_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(
        causal_attention(query, key, value, 1e-9), causal_attention(query, key, value, 0.0), rtol=0, atol=1e-12
    )


def test_attention_drops_whole_weights() -> None:
    torch.manual_seed(0)
    alike = torch.zeros(1, 1, 4, 4)  # so that position p weighs p + 1 values alike
    weights = causal_attention(alike, alike, torch.eye(4)[None, None], 0.5)[0, 0]
    allowed = torch.tensor([[2.0], [1.0], [2 / 3], [1 / 2]]).expand(4, 4).tril()
    assert ((weights == 0) | torch.isclose(weights, allowed)).all()
    assert 0 < int((weights > 0).sum()) < 10
