"""Rows that are moved when they are read against AdamW, which moves all of them at every step."""

import pytest
import torch
from torch import Tensor

from model.lazy_adamw import LazyAdamW

BETAS = (0.9, 0.98)


def both(touched: list[list[int]], weight_decay: float, rates: list[float]) -> tuple[LazyAdamW, Tensor, Tensor]:
    """Train a table of 6 rows both ways, each step with gradients of some rows; return ours, AdamW's rows, and ours."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 4, generator=generator)
    dense = start.clone().requires_grad_()
    adamw = torch.optim.AdamW([dense], betas=BETAS, weight_decay=weight_decay)
    lazy = LazyAdamW(start.clone(), BETAS, weight_decay)
    for rows, rate in zip(touched, rates, strict=True):
        numbers = torch.tensor(rows)
        slope = torch.randn(len(rows), 4, generator=generator)
        adamw.param_groups[0]["lr"] = rate
        adamw.zero_grad()
        (dense[numbers] * slope).sum().backward()
        taken = lazy.take(numbers)
        torch.testing.assert_close(taken.detach(), dense.detach()[numbers], rtol=2e-5, atol=2e-6)
        (taken * slope).sum().backward()
        adamw.step()
        lazy.step(rate)
    lazy.flush()
    return lazy, dense.detach(), lazy.weight


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rows_that_every_step_reads_are_adamws(weight_decay: float) -> None:
    _, dense, lazy = both([[0, 1, 2, 3, 4, 5]] * 30, weight_decay, [0.01] * 30)
    torch.testing.assert_close(lazy, dense, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rows_that_few_steps_read_end_where_adamw_brings_them(weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(1)
    touched = [torch.randperm(5, generator=generator)[: 1 + step % 3].sort().values.tolist() for step in range(80)]
    rates = [0.01 * 0.99**step for step in range(80)]
    lazy, dense, rows = both(touched, weight_decay, rates)
    torch.testing.assert_close(rows, dense, rtol=2e-5, atol=2e-6)
    assert not lazy.mean[5].any()  # never read: decayed at most


def test_a_row_moves_on_through_steps_that_do_not_read_it() -> None:
    once, _, _ = both([[0, 1], [1]], 0.0, [0.01] * 2)
    often, dense, rows = both([[0, 1]] + [[1]] * 40, 0.0, [0.01] * 41)
    assert (once.weight[0] - rows[0]).abs().min() > 1e-3
    torch.testing.assert_close(rows[0], dense[0], rtol=2e-5, atol=2e-6)
    assert often.steps == 41


def test_flushed_rows_go_on_from_their_state() -> None:
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(10, 2, 4, generator=generator)

    def run(lazy: LazyAdamW, steps: range) -> None:
        for step in steps:
            (lazy.take(torch.tensor([step % 3, 3])) * slopes[step]).sum().backward()
            lazy.step(0.01)
        lazy.flush()

    whole = LazyAdamW(torch.ones(4, 4), BETAS, 0.01)
    run(whole, range(5))
    other = LazyAdamW(whole.weight.clone(), BETAS, 0.01)
    other.load(whole.state(), whole.steps)
    run(whole, range(5, 10))
    run(other, range(5, 10))
    assert torch.equal(whole.weight, other.weight)
