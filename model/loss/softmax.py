"""Softmax of each target among negatives of its domain that all predictions of a batch share.

Letters used in this file: P predictions of one domain, N negatives, T time bins, D hidden size.
"""

from typing import Any

import torch
from torch import Tensor

from model.config import LossConfig
from model.loss.scores import Catalogue, DomainScores, Negatives

SCORES_AT_ONCE = 2**22
"""Scores that the softmax holds at once: 16 MiB, a few times over."""


class SampledSoftmax:
    """Cross-entropy over the target and `negatives` items per domain, drawn for the batch; 0: over all of them.

    Where negatives are drawn, the log of how often the draw yields each on average is taken off their logits, never off
    the target's (Bengio and Senecal, 2008).
    """

    def __init__(self, catalogue: Catalogue, cfg: LossConfig) -> None:
        self.count = cfg.negatives
        self.domain_items = catalogue.domain_items
        self.chance = torch.zeros(len(catalogue.item_domain), device=catalogue.item_domain.device)
        """(items + 1,), of each item in a draw from its domain."""
        self.cumulative = []  # per domain, over its items
        for items in self.domain_items:
            popularity = (catalogue.train_actions[items] + 1.0).double() ** cfg.popularity
            chance = popularity / popularity.sum()
            self.cumulative.append(chance.cumsum(0))
            self.chance[items] = chance.float()

    def draw(self, target: Tensor, generator: torch.Generator) -> list[Tensor]:
        """target: (P,). Returns the item numbers (N,) that each domain's targets compete with."""
        drawn = []
        for domain, (items, cumulative) in enumerate(zip(self.domain_items, self.cumulative, strict=True)):
            if self._is_exact(domain):
                drawn.append(items)
                continue
            chance = torch.rand(self.count, generator=generator, device=target.device, dtype=torch.float64)
            drawn.append(items[torch.searchsorted(cumulative, chance).clamp(max=len(items) - 1)])
        return drawn

    def __call__(self, scores: DomainScores, target: Tensor, negatives: Tensor, weight: Tensor) -> Tensor:
        """target, weight: (P,). negatives: (N,). Returns the weighted sum of losses."""
        shared = scores.negatives(negatives)
        if not self._is_exact(scores.domain):
            expected = self.chance[negatives] * len(negatives)  # (N,)
            shared = shared._replace(added=shared.added - expected.log())
        return softmax(scores.logits(target), target, shared, weight)

    def _is_exact(self, domain: int) -> bool:
        return self.count == 0 or self.count >= len(self.domain_items[domain])


def softmax(positive_logits: Tensor, target: Tensor, negatives: Negatives, weight: Tensor) -> Tensor:
    """Return the weighted sum over predictions of -log softmax of each target among itself and the negatives.

    positive_logits: (P,) of the targets. target: (P,) item numbers. weight: (P,).
    """
    total: Tensor = _SlicedSoftmax.apply(positive_logits, target, weight, *negatives)  # type: ignore[no-untyped-call]
    return total


class _SlicedSoftmax(torch.autograd.Function):
    """The softmax loss and its gradients, without ever holding more than a slice of the logits. It equals

        negative_logits = query @ keys.T + added[time_bins]                                        # (P, N)
        negative_logits = negative_logits.masked_fill(items == target[:, None], -inf)
        logits = cat([positive_logits[:, None], negative_logits], dim=1)                           # (P, 1 + N)
        loss = (weight * (logsumexp(logits, dim=1) - positive_logits)).sum()

    with the gradients that autograd gives to positive_logits, query, keys and added. They are computed together with
    the loss, slice by slice of predictions, so that no logit is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, positive_logits: Tensor, target: Tensor, weight: Tensor, items: Tensor, query: Tensor, keys: Tensor,
        added: Tensor, time_bins: Tensor,
    ) -> Tensor:  # fmt: skip
        query_grad, keys_grad, added_grad = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(added)
        positive = positive_logits.float()
        positive_grad = torch.empty_like(positive)
        items, target = items.int(), target.int()
        total = query.new_zeros((), dtype=torch.float32)
        step = max(1, SCORES_AT_ONCE // len(keys))
        for start in range(0, len(query), step):
            part = slice(start, start + step)
            logits = (query[part] @ keys.T).float()  # (p, N)
            logits += added[time_bins[part]] if len(added) > 1 else added
            logits.masked_fill_(items == target[part, None], -torch.inf)
            top = torch.maximum(logits.amax(1), positive[part])  # (p,)
            odds, positive_odds = logits.sub_(top[:, None]).exp_(), (positive[part] - top).exp()
            norm = odds.sum(1) + positive_odds
            total += ((top - positive[part] + norm.log()) * weight[part]).sum()
            positive_grad[part] = (positive_odds / norm - 1) * weight[part]
            slope = odds.mul_((weight[part] / norm)[:, None])  # (p, N), of the loss by each logit
            if ctx.needs_input_grad[6]:
                added_grad.index_add_(0, time_bins[part], slope)
            slope = slope.to(query.dtype)
            query_grad[part] = slope @ keys
            if ctx.needs_input_grad[5]:
                keys_grad += slope.T @ query[part]
        ctx.save_for_backward(positive_grad, query_grad, keys_grad, added_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        positive, query, keys, added = (grad * grads[0] for grad in ctx.saved_tensors)
        return positive, None, None, None, query, keys, added, None
