from collections.abc import Mapping

import pyarrow as pa
import pytest

from data_lake.errors import UserError
from data_lake.schemas import METRICS, RANKS
from data_lake.tables import check
from model.evaluation.compare import over_seeds, paired


def ranks(by_user: Mapping[str, int], phase: str = "finetune") -> pa.Table:
    rows = [
        {
            "phase": phase, "split": "test", "protocol": "full", "user_id": user, "domain": user.split("-")[0],
            "item_id": "i", "rank": rank, "candidates": 100,
        }
        for user, rank in by_user.items()
    ]  # fmt: skip
    return check(pa.Table.from_pylist(rows, RANKS.tables[""]), RANKS)


def test_seeds_are_averaged_per_user_before_anything_else():
    a = [ranks({"food-1": 1, "food-2": 2}), ranks({"food-2": 1, "food-1": 20})]
    b = [ranks({"food-1": 20, "food-2": 20})]
    result = paired(a, b)["HR@10"]
    assert (result.users, result.a, result.b, result.difference) == (2, 0.75, 0.0, 0.75)
    assert (result.low, result.high) == (0.5, 1.0)  # user 1 stands at 0.5, user 2 at 1
    assert paired(a, b)["MRR"].a == pytest.approx(((1 + 1 / 20) / 2 + (1 / 2 + 1) / 2) / 2)


def test_a_run_against_itself_differs_by_nothing():
    a = [ranks({f"food-{n}": n for n in range(1, 30)})]
    for result in paired(a, a).values():
        assert (result.difference, result.low, result.high, result.p) == (0, 0, 0, 1)


def test_the_p_value_is_that_of_sign_flips():
    better = {f"food-{n}": 1 for n in range(5)}
    worse = {f"food-{n}": 50 for n in range(5)}
    result = paired([ranks(better)], [ranks(worse)])["HR@5"]
    assert result.p == pytest.approx(2 / 2**5, abs=0.01)  # all heads or all tails
    assert paired([ranks(worse)], [ranks(better)])["HR@5"].difference == -1


def test_phases_domain_and_users_narrow_the_comparison():
    tuned = ranks({"food-1": 1, "kitchen-1": 1, "kitchen-2": 50})
    before = ranks({"food-1": 50, "kitchen-1": 50, "kitchen-2": 50}, "pretrain")
    table = pa.concat_tables([tuned, before])
    phases = ("finetune", "pretrain")
    assert paired([table], [table], phases=phases)["HR@5"].difference == pytest.approx(2 / 3)
    assert paired([table], [table], phases=phases, domain="kitchen")["HR@5"].difference == 0.5
    assert paired([table], [table], phases=phases, users=["kitchen-2"])["HR@5"].difference == 0


def test_other_users_on_either_side_are_refused():
    with pytest.raises(UserError, match="same users"):
        paired([ranks({"food-1": 1})], [ranks({"food-2": 1})])
    with pytest.raises(UserError, match="same users"):
        paired([ranks({"food-1": 1})], [ranks({"food-1": 1})], split="validation")


def test_mean_and_deviation_over_seeds():
    def metrics(value: float) -> pa.Table:
        row = {
            "phase": "pretrain", "split": "test", "protocol": "full", "domain": None, "group": "all", "metric": "MRR",
            "value": value, "low": 0.0, "high": 1.0, "users": 9, "candidates": 10.0,
        }  # fmt: skip
        return pa.Table.from_pylist([row, {**row, "domain": "food"}], METRICS.tables[""])

    first, second = over_seeds([metrics(0.1), metrics(0.3), metrics(0.2)]).to_pylist()
    assert (first["domain"], second["domain"], first["seeds"]) == (None, "food", 3)
    assert (first["mean"], first["std"]) == (pytest.approx(0.2), pytest.approx(0.1))
