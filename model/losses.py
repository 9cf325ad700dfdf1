"""The losses: next item among the target domain's items, and states against profiles.

Letters used in this file: P predictions, N negatives, M items of a domain, T moments, B users, D hidden size.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

SCORES_AT_ONCE = 2**22
"""Scores that the exact softmax computes at once: 16 MiB, a few times over."""


def sampled_softmax(own: Tensor, others: Tensor, expected: Tensor, is_hit: Tensor, weight: Tensor) -> Tensor:
    """Softmax of each target among shared negatives, corrected for how they were drawn (Bengio and Senecal, 2008).

    own: (P,) scores of the targets. others: (P, N) scores of the negatives. expected: (N,) how often the draw yields
    that item on average; its logarithm is taken off the negatives' scores, never off the target's. is_hit: (P, N) bool,
    the negative is the target. weight: (P,). Returns the weighted sum.
    """
    others = (others - expected.log()).masked_fill(is_hit, -torch.inf)
    losses = torch.logsumexp(torch.cat([own[:, None], others], dim=1).float(), dim=1) - own.float()  # (P,)
    return (losses * weight).sum()


class _ExactSoftmax(torch.autograd.Function):
    """Cross-entropy over all items that never holds more than a slice of the scores.

    The gradients are made together with the loss, slice by slice, so that nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, items: Tensor, lately: Tensor, moments: Tensor, target: Tensor, weight: Tensor
    ) -> Tensor:
        query_grad, items_grad, lately_grad = torch.empty_like(query), torch.zeros_like(items), torch.zeros_like(lately)
        total = query.new_zeros((), dtype=torch.float32)
        rows = max(1, SCORES_AT_ONCE // len(items))
        for start in range(0, len(query), rows):
            part = slice(start, start + rows)
            scores = (query[part] @ items.T).float().add_(lately[moments[part]])  # (p, M)
            own = scores.gather(1, target[part, None])  # (p, 1)
            norm = torch.logsumexp(scores, dim=1, keepdim=True)
            total += ((norm - own).squeeze(1) * weight[part]).sum()
            slope = scores.sub_(norm).exp_()
            slope.scatter_add_(1, target[part, None], -torch.ones_like(own))
            slope = slope.mul_(weight[part, None])
            if ctx.needs_input_grad[2]:
                lately_grad.index_add_(0, moments[part], slope)
            slope = slope.to(query.dtype)
            query_grad[part] = slope @ items
            items_grad += slope.T @ query[part]
        ctx.save_for_backward(query_grad, items_grad, lately_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query_grad, items_grad, lately_grad = ctx.saved_tensors
        return query_grad * grads[0], items_grad * grads[0], lately_grad * grads[0], None, None, None


def exact_softmax(
    query: Tensor, items: Tensor, lately: Tensor, moments: Tensor, target: Tensor, weight: Tensor
) -> Tensor:
    """Softmax of each target among all items of its domain.

    A score is query @ item + lately[moment]. query: (P, D). items: (M, D). lately: (T, M). moments: (P,) rows of
    `lately`. target: (P,) rows of `items`. weight: (P,). Returns the weighted sum.
    """
    total: Tensor = _ExactSoftmax.apply(query, items, lately, moments, target, weight)  # type: ignore[no-untyped-call]
    return total


def binary(right: Tensor, wrong: Tensor, is_hit: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of each target against one negative of its own; a negative that is the target is left out.

    right, wrong: (P,) scores of the targets and of their negatives. is_hit: (P,) bool. weight: (P,). Returns the
    weighted sum.
    """
    losses = F.softplus(-right.float()) + F.softplus(wrong.float()).masked_fill(is_hit, 0.0)
    return (losses * weight).sum()


def align(states: Tensor, profiles: Tensor, form: Literal["own", "soft", "release"], temperature: float) -> Tensor:
    """Pull each user's state to the user's own profile, and away from other users': cross-entropy in both directions.

    states, profiles: (B, D). "own": the user's own profile is the target. "soft": users who are alike share the target,
    which carries no gradient. "release": as the authors published it, without unit vectors and with that gradient.
    Returns the mean over users.
    """
    states, profiles = states.float(), profiles.float()
    if form != "release":
        states, profiles = F.normalize(states, dim=1), F.normalize(profiles, dim=1)
    logits = states @ profiles.T / temperature  # (B, B)
    if form == "own":
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    alike = (states @ states.T + profiles @ profiles.T) / (2 * temperature)
    share = (alike if form == "release" else alike.detach()).softmax(dim=1)
    return (F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share)) / 2
