"""The losses: next item among the target domain's items, and states against profiles.

Letters used in this file: P predictions, N other items, T moments, B users, D hidden size.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SCORES_AT_ONCE = 2**22
"""Scores that the softmax holds at once: 16 MiB, a few times over."""


class Others(NamedTuple):
    """The items that targets compete with. Their scores are query @ keys.T + added[moments]."""

    numbers: Tensor  # (N,) of the items; a target is no competitor of its own
    query: Tensor  # (P, D)
    keys: Tensor  # (N, D)
    added: Tensor  # (T, N) to the score of each item at each moment
    moments: Tensor  # (P,) rows of `added`


class _Softmax(torch.autograd.Function):
    """Cross-entropy that never holds more than a slice of the scores.

    The gradients are made together with the loss, slice by slice, so that nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, own: Tensor, target: Tensor, weight: Tensor, numbers: Tensor, query: Tensor, keys: Tensor,
        added: Tensor, moments: Tensor,
    ) -> Tensor:  # fmt: skip
        query_grad, keys_grad, added_grad = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(added)
        own, own_grad = own.float(), torch.empty_like(own)
        numbers, target = numbers.int(), target.int()
        total = query.new_zeros((), dtype=torch.float32)
        rows = max(1, SCORES_AT_ONCE // len(keys))
        for start in range(0, len(query), rows):
            part = slice(start, start + rows)
            scores = (query[part] @ keys.T).float()  # (p, N)
            scores += added[moments[part]] if len(added) > 1 else added
            scores.masked_fill_(numbers == target[part, None], -torch.inf)
            top = torch.maximum(scores.amax(1), own[part])  # (p,)
            odds, own_odds = scores.sub_(top[:, None]).exp_(), (own[part] - top).exp()
            norm = odds.sum(1) + own_odds
            total += ((top - own[part] + norm.log()) * weight[part]).sum()
            own_grad[part] = (own_odds / norm - 1) * weight[part]
            slope = odds.mul_((weight[part] / norm)[:, None])
            if ctx.needs_input_grad[6]:
                added_grad.index_add_(0, moments[part], slope)
            slope = slope.to(query.dtype)
            query_grad[part] = slope @ keys
            keys_grad += slope.T @ query[part]
        ctx.save_for_backward(own_grad, query_grad, keys_grad, added_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        own, query, keys, added = (grad * grads[0] for grad in ctx.saved_tensors)
        return own, None, None, None, query, keys, added, None


def softmax(own: Tensor, target: Tensor, others: Others, weight: Tensor) -> Tensor:
    """Softmax of each target among itself and the others.

    own: (P,) scores of the targets. target: (P,) item numbers. weight: (P,). Returns the weighted sum. Where the others
    are drawn, the log of how often the draw yields each on average is to be taken off their scores, never off the
    target's (Bengio and Senecal, 2008).
    """
    total: Tensor = _Softmax.apply(own, target, weight, *others)  # type: ignore[no-untyped-call]
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
