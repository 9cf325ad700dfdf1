"""An earlier checkpoint beside a newer one, on the newer one's validation targets.

Each reads a target's history as far as it knows its items; both rank the target among the items that both know.

Letters used in this file: T targets, B users of a call, M items of a domain that both know, N positions.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor

from data_lake.errors import UserError
from data_lake.schemas import SPLITS, TRAIN, VALIDATION
from data_lake.settings_errors import parse
from model.config import EvaluateConfig
from model.data.training_set import Bools, Ints, TrainingSet
from model.device import choose_device
from model.evaluation.candidates import FULL, Targets, blocks, find_targets
from model.evaluation.compare import Difference, paired
from model.evaluation.evaluate import phase_folders, rank_table
from model.evaluation.ranking import rank_targets
from model.evaluation.scoring import NetworkScorer, Scorer, load_scorer
from model.settings import read_settings

NOW, BEFORE = "new checkpoint", "earlier checkpoint"


@dataclass(frozen=True)
class ComparedCheckpoints:
    """The metrics of both, and how many targets were left out of them. Differences are new - earlier."""

    differences: Mapping[str, Difference]
    """By metric; empty where no target was left, or where the earlier checkpoint cannot be measured."""
    targets: int
    unknown: int
    """Targets left out as the earlier checkpoint does not know their items."""
    trained_on: int
    """Targets left out as the earlier checkpoint was trained on them."""
    unmeasured: str = ""
    """Why the earlier checkpoint cannot be measured."""


def main(args: argparse.Namespace) -> None:
    """Run `python -m model compare`."""
    cfg = parse(EvaluateConfig, read_settings(args.config))
    device = choose_device(cfg.device)
    data = TrainingSet.load(args.data, cfg.stream)
    scorer = load_scorer(list(phase_folders(args.run).values())[-1], data, device)
    try:
        before = TrainingSet.load(args.before_data, cfg.stream)
        before_scorer = load_scorer(list(phase_folders(args.before).values())[-1], before, device)
    except UserError as error:
        found = ComparedCheckpoints({}, 0, 0, 0, str(error))
    else:
        found = compare_checkpoints(scorer, before_scorer, cfg)
    args.out.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")


def compare_checkpoints(scorer: NetworkScorer, before: NetworkScorer, cfg: EvaluateConfig) -> ComparedCheckpoints:
    """Rank the validation targets of the scorer's training set by both, among all items that both know.

    A target whose item the earlier one does not know, or that it was trained on, is left out: as for a user whose later
    actions are gone. Raises UserError for a score of the new one that is not a number.
    """
    data, earlier = scorer.data, before.data
    numbers = earlier_numbers(data, earlier)
    every = find_targets(data, VALIDATION, cfg.users)
    is_known = numbers[every.items] > 0
    is_trained = is_known & _trained_on(data, every, earlier, numbers)
    targets = _only(every, is_known & ~is_trained)
    counts = len(targets), int((~is_known).sum()), int(is_trained.sum())
    if not len(targets):
        return ComparedCheckpoints({}, *counts)
    shared = replace(data, item_domain=np.where(numbers > 0, data.item_domain, -1).astype(data.item_domain.dtype))
    as_before = before.for_users(_histories(data, targets, earlier, numbers))

    def score(users: Ints, prefix_lengths: Ints, domain: str) -> Tensor:
        return _columns(scorer(users, prefix_lengths, domain), data, shared.domain_items[_number(data, domain)], domain)

    def score_before(users: Ints, prefix_lengths: Ints, domain: str) -> Tensor:
        rows = np.searchsorted(targets.users, users)
        items = numbers[shared.domain_items[_number(data, domain)]]
        return _columns(as_before(rows, as_before.data.lengths[rows] - 1, domain), earlier, items, domain)

    now = _ranks(shared, targets, score, NOW, cfg)
    try:
        then = _ranks(shared, targets, score_before, BEFORE, cfg)
    except UserError as error:
        return ComparedCheckpoints({}, *counts, str(error))
    differences = paired([now], [then], split=VALIDATION, protocol=FULL, phases=(NOW, BEFORE), resamples=cfg.resamples)
    return ComparedCheckpoints(differences, *counts)


def earlier_numbers(data: TrainingSet, earlier: TrainingSet) -> Ints:
    """Return (items + 1,): the number of each item in an earlier training set, 0 where its domain there lacks it."""
    found: Ints = pc.index_in(data.item_ids, value_set=earlier.item_ids, skip_nulls=True).fill_null(0).to_numpy()
    names, earlier_names = np.array([*data.domains, ""]), np.array([*earlier.domains, ""])  # padding is of domain -1
    is_alike = names[data.item_domain] == earlier_names[earlier.item_domain[found]]
    return np.where(is_alike, found, 0).astype(np.int64)


def _trained_on(data: TrainingSet, targets: Targets, earlier: TrainingSet, numbers: Ints) -> Bools:
    """Return (T,): whether the earlier training set holds the target as a training action, of its user at its time."""
    names = data.user_ids.take(pa.array(targets.users))
    row = pc.index_in(names, value_set=earlier.user_ids).fill_null(-1).to_numpy().astype(np.int64)
    lengths = np.where(row >= 0, earlier.lengths[row] if earlier.n_users else 0, 0)
    owner, position = _spans(earlier.offsets[row], lengths)
    is_target = earlier.items[position] == numbers[targets.items[owner]]
    is_target &= earlier.times[position] == data.times[targets.positions[owner]]
    is_target &= (earlier.splits[position] == SPLITS.index(TRAIN)) & ~earlier.synthetic[position]
    return np.bincount(owner[is_target], minlength=len(targets)) > 0


def _histories(data: TrainingSet, targets: Targets, earlier: TrainingSet, numbers: Ints) -> TrainingSet:
    """Return the earlier training set with other users: one per target, with its history and, last, the target."""
    owner, position = _spans(data.offsets[targets.users], targets.prefix_length + 1)
    items = numbers[data.items[position]]
    owner, position, items = (each[items > 0] for each in (owner, position, items))
    return replace(
        earlier,
        offsets=np.concatenate([[0], np.bincount(owner, minlength=len(targets)).cumsum()]),
        items=items.astype(np.int32),
        times=data.times[position],
        splits=data.splits[position],
        synthetic=data.synthetic[position],
        weights=np.zeros(len(position), np.float32),
        user_ids=data.user_ids.take(pa.array(targets.users)),
        user_keys=data.user_keys[targets.users],
        profiles={},
        on_disk=False,
    )


def _ranks(shared: TrainingSet, targets: Targets, score: Scorer, name: str, cfg: EvaluateConfig) -> pa.Table:
    drawn = blocks(shared, targets, [FULL], cfg.batch_size)
    [found] = rank_targets(shared, targets, drawn, {name: score}, [FULL]).values()
    return rank_table(shared, targets, name, FULL, found)


def _columns(scores: Tensor, data: TrainingSet, items: Ints, domain: str) -> Tensor:
    """scores: of all items of the domain. Returns those of `items`, (B, M)."""
    return scores[:, np.searchsorted(data.domain_items[_number(data, domain)], items)]


def _number(data: TrainingSet, domain: str) -> int:
    return data.domains.index(domain)


def _only(targets: Targets, chosen: Bools) -> Targets:
    columns = (targets.users, targets.positions, targets.prefix_length, targets.items, targets.domains)
    return Targets(targets.split, *(column[chosen] for column in columns))


def _spans(starts: Ints, lengths: Sequence[int] | NDArray[np.int64]) -> tuple[Ints, Ints]:
    """Return, for each position of spans of these starts and lengths, which span it is of and where it stands: (N,)."""
    lengths = np.asarray(lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(owner)) - np.repeat(lengths.cumsum() - lengths, lengths)
    return owner, starts[owner] + within
