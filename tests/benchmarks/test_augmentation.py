"""How a difference to no augmentation is said."""

import pyarrow as pa
import pytest

from benchmarks.augmentation import over_runs, percent
from model.evaluation.compare import Difference


def difference(low: float, mean: float, high: float) -> Difference:
    return Difference("HR@10", 100, 0.2 + mean, 0.2, mean, low, high, 0.5)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.01, "better"),
        (-0.0019, 0.01, "not worse"),
        (-0.0021, 0.01, "undecided"),
        (-0.01, -0.001, "worse"),
    ],
)
def test_never_worse_is_a_lower_end_above_minus_one_percent(low: float, high: float, verdict: str) -> None:
    said = percent(difference(low, (low + high) / 2, high))
    assert said.split("]")[1].split("(")[0].strip() == verdict


def ranks(*found: int) -> pa.Table:
    """Ranks of users u0, u1, ... in one run."""
    rows = [
        {"user_id": f"u{user}", "domain": "food", "split": "validation", "phase": "finetune", "protocol": "full",
         "rank": rank, "candidates": 100}
        for user, rank in enumerate(found)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def test_pairs_of_runs_are_averaged_and_their_spread_is_the_standard_error() -> None:
    without = [ranks(1, 1, 20, 20), ranks(1, 20, 20, 20)]  # HR@10 .5 and .25
    with_ = [ranks(1, 1, 1, 20), ranks(1, 20, 20, 20)]  # .75 and .25: +50 % and 0
    assert over_runs(with_, without, "HR@10", "validation", "full", "finetune") == "; 2 runs +25.0 ± 25.0"


def test_one_pair_of_runs_has_no_spread() -> None:
    assert over_runs([ranks(1)], [ranks(20)], "HR@10", "validation", "full", "finetune") == ""
