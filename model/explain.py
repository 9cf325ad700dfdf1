"""Why an item is recommended to a user: the parts of its score, and what that is without each item of the history.

Letters used in this file: N positions of the user's history, M items of a domain.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from data_lake.schemas import CONTEXT, SPLITS
from model.config import RecommendConfig
from model.data.histories import no_actions, with_histories
from model.data.training_set import Bools, Ints, TrainingSet
from model.evaluation.candidates import history
from model.evaluation.scoring import NetworkScorer
from model.recommend import Recommender, top_items, unknown_id


@dataclass(frozen=True)
class LeftOut:
    """A history item, and what the score is without it."""

    item_id: str
    title: str | None
    is_synthetic: bool
    score: float


@dataclass(frozen=True)
class ExplainedScore:
    """An item's score for a user now. `parts` sum to it.

    `rank` counts from 1 among the `candidates`, the items of the domain that the user has not chosen; it is null where
    the user has chosen the item. `left_out` are the items of the history that the network reads, the one without which
    the score differs most first.
    """

    domain: str
    item_id: str
    title: str | None
    rank: int | None
    candidates: int
    score: float
    parts: dict[str, float]
    left_out: list[LeftOut]


def explain(
    model: Recommender, user: str, cfg: RecommendConfig, item: str | None = None, allowed: Bools | None = None
) -> list[ExplainedScore]:
    """Return the scores of the user's `cfg.top` best items per domain, or that of one item.

    allowed: (items + 1,), what may be recommended. Raises UnknownIdError for a user or an item that the model does not
    know.
    """
    if pc.index(model.data.user_ids, user).as_py() < 0:
        raise unknown_id("user", user, model.data.user_ids, "`edt show sequences` shows what ids look like.")
    data = with_histories(model.data, no_actions(), pa.array([user])).data
    scorer = model.scorer.for_users(data)
    if item is not None:
        numbers = np.array([model.number(item)])
    else:
        best = top_items(data, scorer, cfg, model.phase, allowed)["item_id"]
        numbers = pc.index_in(best, value_set=data.item_ids).to_numpy().astype(np.int64)
    domain_of = data.item_domain[numbers]
    return [
        each
        for domain in range(len(data.domains))
        for each in _explained(data, scorer, domain, numbers[domain_of == domain])
    ]


def _explained(data: TrainingSet, scorer: NetworkScorer, domain: int, items: Ints) -> list[ExplainedScore]:
    """Return the scores of items of one domain for the only user of `data`."""
    if not len(items):
        return []
    name, columns = data.domains[domain], data.domain_items[domain]
    user, length = np.array([0]), data.lengths[:1]
    column = np.searchsorted(columns, items)
    scores = scorer(user, length, name)[0].cpu().numpy()  # (M,)
    parts = {part: values[0, column].cpu().numpy() for part, values in scorer.parts(user, length, name).items()}
    is_candidate = np.ones(len(columns), np.bool_)
    is_candidate[history(data, user, length, columns)[1]] = False
    read = _read_positions(data, scorer)
    without = _scores_without(data, scorer, name, read)[:, column]  # (N, items)
    return [
        ExplainedScore(
            domain=name,
            item_id=data.item_ids[int(number)].as_py(),
            title=data.titles[int(number)].as_py(),
            rank=int((scores[is_candidate] > scores[at]).sum()) + 1 if is_candidate[at] else None,
            candidates=int(is_candidate.sum()),
            score=float(scores[at]),
            parts={part: float(values[row]) for part, values in parts.items()},
            left_out=_left_out(data, read, without[:, row], float(scores[at])),
        )
        for row, (number, at) in enumerate(zip(items, column, strict=True))
    ]


def _read_positions(data: TrainingSet, scorer: NetworkScorer) -> Ints:
    """Return the positions (N,) of the history that the network reads."""
    windows, start = scorer.sequences.windows(torch.tensor([0]), torch.from_numpy(data.lengths[:1].copy()))
    return np.arange(int(windows.lengths[0])) + int(start[0])


def _scores_without(data: TrainingSet, scorer: NetworkScorer, domain: str, read: Ints) -> NDArray[np.float32]:
    """Return (N, M): the scores of the domain's items where one of the positions `read` is left out of the history."""
    if not len(read):
        return np.zeros((0, len(data.domain_items[data.domains.index(domain)])), np.float32)
    length = len(data.items) - 1
    kept = np.concatenate([np.delete(np.arange(length + 1), position) for position in read])
    shorter = replace(
        data,
        offsets=np.arange(len(read) + 1) * length,
        items=data.items[kept],
        times=data.times[kept],
        splits=np.full(len(kept), SPLITS.index(CONTEXT), np.int8),
        synthetic=data.synthetic[kept],
        weights=data.weights[kept],
        user_ids=pa.array(map(str, range(len(read)))),
        user_keys=np.zeros(len(read), np.uint64),
    )
    rows = np.arange(len(read))
    scores: NDArray[np.float32] = scorer.for_users(shorter)(rows, shorter.lengths, domain).cpu().numpy()
    return scores


def _left_out(data: TrainingSet, read: Ints, without: NDArray[np.float32], score: float) -> list[LeftOut]:
    found = [
        LeftOut(
            data.item_ids[int(data.items[position])].as_py(),
            data.titles[int(data.items[position])].as_py(),
            bool(data.synthetic[position]),
            float(value),
        )
        for position, value in zip(read, without, strict=True)
    ]
    return sorted(found, key=lambda each: -abs(score - each.score))
