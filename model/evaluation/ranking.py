"""Rank each target among its candidates.

Letters used in this file: T targets of a split, B targets of a block, M items of a domain, N negatives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_lake.errors import UserError
from data_lake.progress import progress
from model import parallel
from model.data.training_set import TrainingSet
from model.evaluation.candidates import Block, Targets, negatives
from model.evaluation.scoring import Scorer


@dataclass(frozen=True)
class Ranked:
    """Rank of each target, from 1, and the number of its candidates, the target included."""

    ranks: NDArray[np.int32]  # (T,)
    candidates: NDArray[np.int32]  # (T,)


def rank_targets(
    data: TrainingSet,
    targets: Targets,
    blocks: Iterable[Block],
    scorers: Mapping[str, Scorer],
    protocols: Sequence[str],
) -> dict[tuple[str, str], Ranked]:
    """Return the ranks per (name of the scorer, protocol); each scorer scores each block once, for all protocols."""
    found = {
        (name, protocol): Ranked(np.zeros(len(targets), np.int32), np.zeros(len(targets), np.int32))
        for name in scorers
        for protocol in protocols
    }
    with progress(f"{targets.split} targets", len(targets) / parallel.world()) as work:
        for block in blocks:
            for name, score in scorers.items():
                scores = score(block.users, block.prefix_length, block.domain).float()  # (B, M)
                refuse_non_finite(data, block.users, block.columns, scores, name)
                for protocol in protocols:
                    ranks, candidates = rank(block, scores, negatives(protocol))
                    found[name, protocol].ranks[block.rows] = ranks.cpu().numpy()
                    found[name, protocol].candidates[block.rows] = candidates.cpu().numpy()
            work.advance(len(block.rows))
    return found


def rank(block: Block, scores: Tensor, sample: int | None) -> tuple[Tensor, Tensor]:
    """scores: (B, M). Returns ranks and numbers of candidates, both (B,), against `sample` negatives or, None, all.

    Every candidate that scores as high as the target stands before it.
    """
    on = scores.device
    target = torch.from_numpy(block.target).to(on)
    unseen = torch.from_numpy(block.unseen).to(on)
    target_score = scores.gather(1, target[:, None])  # (B, 1)
    if sample is None:
        row, column = torch.from_numpy(block.seen_row).to(on), torch.from_numpy(block.seen_column).to(on)
        ahead = (scores >= target_score).sum(
            1, dtype=torch.int32
        )  # (B,): the target itself, what beats it, and seen items
        seen_ahead = (scores[row, column] >= target_score[row, 0]).int()
        return ahead.index_add(0, row, -seen_ahead), unseen + 1
    count = unseen.clamp(max=sample)  # (B,)
    drawn = torch.from_numpy(block.sampled[:, :sample]).to(on)  # (B, N)
    is_drawn = torch.arange(drawn.shape[1], device=on) < count[:, None]  # (B, N)
    ahead = ((scores.gather(1, drawn) >= target_score) & is_drawn).sum(1)
    return ahead + 1, count + 1


def refuse_non_finite(
    data: TrainingSet, users: NDArray[np.int64], columns: NDArray[np.int64], scores: Tensor, name: str
) -> None:
    """Stop at the first score that is not a number or is infinite."""
    if bool(torch.isfinite(scores.sum())) or bool(torch.isfinite(scores).all()):  # the first is quick, and may overflow
        return
    row, column = (~torch.isfinite(scores)).nonzero()[0].tolist()
    item, user = int(columns[column]), int(users[row])
    raise UserError(
        f"{name}: the score of user '{data.user_ids[user]}' for item '{data.item_ids[item]}' of domain "
        f"'{data.domains[data.item_domain[item]]}' is {scores[row, column].item()}. The training diverged: train again "
        "with a lower learning rate."
    )
