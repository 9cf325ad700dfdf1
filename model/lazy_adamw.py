"""AdamW for a table of which a step reads few rows: the id vectors of a large catalogue.

Dense AdamW (Loshchilov and Hutter, 2019) moves every row at every step, since a row without a gradient still follows
its fading momentum and its weight decay. What k such steps after step s do to a row is known beforehand:

    mean <- b1^k mean,   square <- b2^k square,   row <- keep * row - pending * mean / sqrt(square)

    keep = product of (1 - rate_j decay) over the steps j = s + 1 ... s + k
    pending = sum of rate_j * sqrt(1 - b2^j) / (1 - b1^j) * (b1 / sqrt(b2))^(j - s)
              * (product of 1 - rate_i decay, i > j)

So a row catches up on its pending steps when it is next read. The result is that of dense AdamW, at a cost that grows
with the rows of a batch and not with the catalogue. One term differs: epsilon keeps, through steps without a gradient,
the share in the denominator that it had at step s.

Letters used in this file: N rows, K rows of a batch, D their size.
"""

import math

import torch
from torch import Tensor

ROWS_AT_ONCE = 65_536


class LazyAdamW:
    """The rows of a table and their optimiser: `take` some, call backward, `step`.

    `flush` before anything else reads the table.
    """

    def __init__(self, weight: Tensor, betas: tuple[float, float], weight_decay: float, epsilon: float = 1e-8) -> None:
        """weight: (N, D), changed in place."""
        self.weight = weight.detach()
        self.betas, self.weight_decay, self.epsilon = betas, weight_decay, epsilon
        self.mean, self.square = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        self.steps = 0
        self._restart()

    def take(self, numbers: Tensor) -> Tensor:
        """numbers: (K,), each once. Returns the current rows (K, D), a leaf that collects their gradient."""
        self.numbers = numbers
        rows, self._mean, self._square = self._caught_up(numbers)
        self.rows = rows.requires_grad_()
        return self.rows

    def step(self, rate: float) -> None:
        """Move the rows last taken by their gradient, and note the step as pending for all others."""
        self.steps += 1
        b1, b2 = self.betas
        root = math.sqrt(1 - b2**self.steps)
        grad = self.rows.grad if self.rows.grad is not None else torch.zeros_like(self.rows)
        mean = self._mean.lerp_(grad, 1 - b1)
        square = self._square.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        moved = self.rows.detach().mul_(1 - rate * self.weight_decay)
        moved.addcdiv_(mean, square.sqrt().div_(root).add_(self.epsilon), value=-rate / (1 - b1**self.steps))
        for table, changed in ((self.weight, moved), (self.mean, mean), (self.square, square)):
            table.index_copy_(0, self.numbers, changed)
        self.last[self.numbers] = self.steps - self._base
        self._note(rate, rate * root / (1 - b1**self.steps))

    def flush(self) -> None:
        """Let every row catch up, so that `weight` is what dense AdamW would hold."""
        for part in torch.split(torch.arange(len(self.weight), device=self.weight.device), ROWS_AT_ONCE):
            for table, rows in zip((self.weight, self.mean, self.square), self._caught_up(part), strict=True):
                table.index_copy_(0, part, rows)
        self._restart()

    def state(self) -> dict[str, Tensor]:
        """Return the moments, once flushed."""
        return {"mean": self.mean, "square": self.square}

    def load(self, state: dict[str, Tensor], steps: int) -> None:
        """Go on from flushed moments after `steps` steps; `weight` is loaded by its owner."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps = steps
        self._restart()

    def _restart(self) -> None:
        """Nothing is pending: every row stands at the current step."""
        self._base = self.steps
        self.last = torch.zeros(len(self.weight), dtype=torch.int64, device=self.weight.device)  # steps since _base
        zero = torch.zeros(1, dtype=torch.float64, device=self.weight.device)
        self._pending, self._keep, self._fade = zero, zero + 1, zero + 1  # by the step at which a row stands

    def _note(self, rate: float, reach: float) -> None:
        """Add the current step to what is pending; nothing is for a row that stands at it."""
        b1, b2 = self.betas
        shrink = 1 - rate * self.weight_decay
        fade = self._fade * (b1 / math.sqrt(b2))
        pending = self._pending * shrink + reach * fade
        self._pending = torch.cat([pending, pending.new_zeros(1)])
        self._keep = torch.cat([self._keep * shrink, pending.new_ones(1)])
        self._fade = torch.cat([fade, pending.new_ones(1)])

    def _caught_up(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows, means and squares (K, D) as dense AdamW would hold them now."""
        b1, b2 = self.betas
        rows, mean, square = (table.index_select(0, numbers) for table in (self.weight, self.mean, self.square))
        stood = self.last[numbers]  # (K,)
        missed = (self.steps - self._base - stood).double()[:, None]  # (K, 1)
        epsilon = self.epsilon * (1 - b2 ** (stood + self._base).double()[:, None]).sqrt()
        floor = torch.finfo(rows.dtype).tiny  # of a row that never had a gradient
        unit = square.sqrt().add_(epsilon.to(rows.dtype)).clamp_(min=floor)
        torch.div(mean, unit, out=unit)
        rows.mul_(self._keep[stood, None].to(rows.dtype))
        rows.addcmul_(self._pending[stood, None].to(rows.dtype), unit, value=-1.0)
        return rows, mean.mul_((b1**missed).to(rows.dtype)), square.mul_((b2**missed).to(rows.dtype))
