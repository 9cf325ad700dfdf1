"""What the flat positions of a training set must hold, whoever wrote them.

Letters used in this file: N positions, U users.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_lake.errors import UserError
from data_lake.schemas import CONTEXT, SPLITS, TEST, TRAIN, VALIDATION

ORDER = np.array([{TRAIN: 0, VALIDATION: 1, TEST: 2, CONTEXT: -1}[split] for split in SPLITS], np.int8)
"""Per split, its place in a user's history; -1: it has none."""


def check_positions(flat: Mapping[str, NDArray[Any]], offsets: NDArray[np.int64], items: int, where: str) -> None:
    """Raise UserError for what no training set holds: its flat arrays (N,) by kind, and where users start (U + 1,)."""
    numbers, splits, weights = flat["items"], flat["splits"], flat["weights"]
    for is_wrong, what in (
        (_outside(numbers, 1, items), f"an item number lies outside 1..{items}"),
        (_outside(splits, 0, len(SPLITS) - 1), f"a split number lies outside 0..{len(SPLITS) - 1}"),
        (not np.isfinite(weights).all() or (weights < 0).any(), "a weight is negative or no number"),
    ):
        if is_wrong:
            raise UserError(f"{where}/sequences: {what}. Build it again.")
    has_place = np.flatnonzero((ORDER[splits] >= 0) & ~flat["synthetic"])
    place, user = ORDER[splits[has_place]], np.searchsorted(offsets, has_place, side="right")
    if ((place[1:] < place[:-1]) & (user[1:] == user[:-1])).any():
        raise UserError(
            f"{where}/sequences: a user's test action stands before validation, or one of both before training. "
            "Build it again."
        )


def _outside(numbers: NDArray[Any], low: int, high: int) -> bool:
    return bool(len(numbers) and (numbers.min() < low or numbers.max() > high))
