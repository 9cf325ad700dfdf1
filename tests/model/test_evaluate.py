from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError

from data_lake.errors import UserError
from data_lake.schemas import METRICS, RANKS, TEST, VALIDATION
from data_lake.tables import check
from model.config import EvaluateConfig
from model.data.training_set import TrainingSet
from model.evaluation.candidates import find_targets
from model.evaluation.evaluate import Measured, measure, phase_folders
from model.evaluation.groups import groups
from tests.model.worlds import Told, world

ITEMS = {"food": "f1 f2 f3 f4 f5 f6", "kitchen": "k1 k2 k3"}
FULL = EvaluateConfig(protocols=("full",), resamples=50)


def ranks(measured: Measured, **where: str) -> dict[str, tuple[int, int]]:
    """Rank and number of candidates by user id."""
    rows = [row for row in measured.ranks.to_pylist() if all(row[name] == value for name, value in where.items())]
    return {row["user_id"]: (row["rank"], row["candidates"]) for row in rows}


def value(measured: Measured, metric: str, **where: str | None) -> dict[str, float]:
    wanted = {"domain": None, "group": "all", "metric": metric, **where}
    (row,) = [row for row in measured.metrics.to_pylist() if all(row[name] == text for name, text in wanted.items())]
    return row


def test_a_tie_counts_against_us():
    data = world({"a": "k1 f1:test", "b": "k1 f1:test", "c": "k1 f1:test"}, ITEMS)
    told = Told(data, {"a": "f1=2 f2=2 f3=2 f4=1", "b": "f1=2 f2=1", "c": ""})
    assert ranks(measure(data, {"pretrain": told}, FULL)) == {"a": (3, 6), "b": (1, 6), "c": (6, 6)}


def test_history_is_no_candidate_but_synthetic_and_later_items_are():
    data = world({"u": "f1 f2 *f3 f4:validation f5:test"}, ITEMS)
    told = Told(data, {"u": "f1=9 f2=8 f3=7 f5=6 f4=5 f6=1"})
    measured = measure(data, {"finetune": told}, FULL)
    assert ranks(measured, split=VALIDATION) == {"u": (3, 4)}  # behind f3 and f5; f6 behind it
    assert ranks(measured, split=TEST) == {"u": (2, 3)}  # behind f3; f6 behind it


def test_a_target_bought_before_is_a_candidate():
    data = world({"u": "f1 f2 f1:test"}, ITEMS)
    assert ranks(measure(data, {"pretrain": Told(data, {"u": "f2=3 f1=2 f3=1"})}, FULL)) == {"u": (1, 5)}


def test_two_scores_that_float32_cannot_tell_apart_are_a_tie():
    data = world({"u": "k1 f1:test"}, ITEMS)
    assert ranks(measure(data, {"pretrain": Told(data, {"u": "f1=1.000000001 f2=1"})}, FULL)) == {"u": (2, 6)}


def test_sampled_ranks_count_only_drawn_negatives_and_say_how_many_there_were():
    items = {"food": " ".join(f"f{n}" for n in range(300)), "kitchen": "k1 k2 k3"}
    data = world({"a": "f0 f1:test", "b": "k1 k2 k3:test"}, items)
    told = Told(data, {"a": " ".join(f"f{n}=1" for n in range(1, 300)), "b": "k3=-1 k2=5"})
    measured = measure(data, {"pretrain": told}, EvaluateConfig(resamples=50))
    assert ranks(measured, protocol="full") == {"a": (299, 299), "b": (1, 1)}
    assert ranks(measured, protocol="sampled-100") == {"a": (101, 101), "b": (1, 1)}
    assert ranks(measured, protocol="sampled-999") == {"a": (299, 299), "b": (1, 1)}
    assert value(measured, "MRR", protocol="sampled-100")["candidates"] == 51
    assert value(measured, "MRR", protocol="sampled-100", domain="kitchen")["candidates"] == 1


def test_a_sampled_rank_is_one_more_than_the_drawn_items_that_score_as_high():
    data = world({"u": "f1 f2:test"}, ITEMS)
    told = Told(data, {"u": "f1=9 f2=1 f3=1 f4=2 f5=0 f6=0"})
    measured = measure(data, {"pretrain": told}, EvaluateConfig(protocols=("sampled-4",), resamples=50))
    assert ranks(measured) == {"u": (3, 5)}


def test_each_scorer_scores_each_target_once_for_all_protocols_with_what_stands_before_it():
    data = world({"a": "f1 *f2 f3 f4:validation k1:test", "b": "k1 f1:validation f2:test"}, ITEMS)
    told = Told(data, {})
    measure(data, {"pretrain": told}, EvaluateConfig(resamples=50))
    assert told.calls == [(["b", "a"], [1, 3], "food"), (["b"], [2], "food"), (["a"], [4], "kitchen")]


@pytest.mark.parametrize(("split", "score"), [("test", "nan"), ("validation", "inf")])
def test_a_score_that_is_not_finite_stops_the_evaluation(split: str, score: str):
    data = world({"good": f"f1 f2:{split}", "bad": f"f1 f2:{split}"}, ITEMS)
    told = Told(data, {"bad": f"f5={score}"})
    with pytest.raises(UserError, match=f"finetune: the score of user 'bad' for item 'f5' of domain 'food' is {score}"):
        measure(data, {"finetune": told}, FULL)


def test_metrics_are_means_over_users_per_domain_and_over_all():
    data = world({"a": "f1 f2:test", "b": "f1 f2:test", "c": "f1 k1:test"}, ITEMS)
    told = Told(data, {"a": "f2=1", "b": "f2=1 f3=1 f4=1", "c": "k1=1 k2=1"})  # ranks 1, 3, 2
    measured = measure(data, {"pretrain": told}, FULL)
    assert value(measured, "MRR")["value"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)
    assert value(measured, "NDCG@10", domain="food")["value"] == pytest.approx((1 + 1 / 2) / 2)
    assert value(measured, "HR@5", domain="kitchen") == {
        "phase": "pretrain", "split": "test", "protocol": "full", "domain": "kitchen", "group": "all", "metric": "HR@5",
        "value": 1.0, "low": 1.0, "high": 1.0, "users": 1, "candidates": 3.0,
    }  # fmt: skip


def test_rows_keep_the_schema_their_order_and_are_the_same_again():
    data = world({"a": "f1 k1 f2:validation k2:test", "b": "k1 k3 f1:validation f2:test"}, ITEMS)
    scorers = {"pretrain": Told(data, {"a": "f2=1"}), "finetune": Told(data, {"b": "f1=1"})}
    cfg = EvaluateConfig(resamples=50)
    measured = measure(data, scorers, cfg)
    check(measured.metrics, METRICS)
    check(measured.ranks, RANKS)
    assert measured == measure(data, scorers, cfg)
    for name in ("value", "low", "high", "candidates"):
        assert pc.all(pc.is_finite(measured.metrics[name])).as_py()
    assert pc.all(pc.less_equal(measured.metrics["low"], measured.metrics["value"])).as_py()
    assert pc.all(pc.less_equal(measured.metrics["value"], measured.metrics["high"])).as_py()
    assert pc.min(measured.metrics["users"]).as_py() == 1
    places = [(row["phase"], row["split"], row["protocol"], row["user_id"]) for row in measured.ranks.to_pylist()]
    assert places == [
        (phase, split, protocol, user)
        for phase in ("pretrain", "finetune")
        for split in (VALIDATION, TEST)
        for protocol in ("full", "sampled-100", "sampled-999")
        for user in ("a", "b")
    ]
    leading = [(row["phase"], row["split"], row["protocol"], row["domain"]) for row in measured.metrics.to_pylist()]
    assert list(dict.fromkeys(leading))[:4] == [
        ("pretrain", VALIDATION, "full", None),
        ("pretrain", VALIDATION, "full", "food"),
        ("pretrain", VALIDATION, "sampled-100", None),
        ("pretrain", VALIDATION, "sampled-100", "food"),
    ]


def test_a_data_set_without_targets_gives_empty_tables():
    data = world({"a": "f1 k1"}, ITEMS)
    measured = measure(data, {"pretrain": Told(data, {})}, FULL)
    assert (measured.metrics.num_rows, measured.ranks.num_rows) == (0, 0)


def test_a_sample_of_users_is_measured():
    data = world({f"u{n}": "f1 f2:test" for n in range(30)}, ITEMS)
    measured = measure(data, {"pretrain": Told(data, {})}, EvaluateConfig(users=4, resamples=50))
    assert value(measured, "MRR", protocol="full")["users"] == 4


def grouped(data: TrainingSet, split: str = TEST) -> dict[str, set[str]]:
    targets = find_targets(data, split)
    names = np.array(data.user_ids.take(pa.array(targets.users)).to_pylist())
    return {group: set(names[member].tolist()) for group, member in groups(data, targets).items()}


def test_imbalance_and_length_are_told_by_real_training_actions():
    users = {
        "all-food": "f1 f2 f3 *k1 *k2 k1:validation k2:test",
        "even": "f1 k1 f2:validation f3:test",
        "3-of-4": "f1 f2 f3 k1 k2:validation f4:test",
        "9-of-10": " ".join(["f1"] * 9) + " k1 k2:test",
        "7-of-10": " ".join(["f1"] * 7) + " k1 k1 k1 f2:test",
        "long": " ".join(["f1", "k1"] * 10) + " f3:test",
        "longer": " ".join(["f1", "k1"] * 26) + " f3:test",
    }
    found = grouped(world(users, ITEMS))
    assert found["all"] == set(users)
    assert found["imbalance<0.7"] == {"even", "long", "longer"}
    assert found["0.7<=imbalance<0.9"] == {"3-of-4", "7-of-10"}
    assert found["imbalance>=0.9"] == {"all-food", "9-of-10"}
    assert found["scarce-domain"] == {"all-food", "9-of-10"}
    assert found["not scarce-domain"] == {"even", "3-of-4", "7-of-10", "long", "longer"}
    assert found["imbalance>=0.9 and scarce-domain"] == {"all-food", "9-of-10"}
    assert found["length<=10"] == {"all-food", "even", "3-of-4", "9-of-10", "7-of-10"}
    assert (found["10<length<=50"], found["length>50"]) == ({"long"}, {"longer"})


def test_popularity_counts_training_actions_and_the_head_is_a_fifth_of_the_trained_items():
    items = {"food": " ".join(f"f{n}" for n in range(7))}
    history = "f1 f1 f2 f2 f3 f3 f4 f4 f5 f5 f5"  # five trained items: f5 is the head
    users = {"cold": f"{history} f6:test", "tail": "f5 f4:test", "head": "f1 f5:test", "second": "f2 f3:test"}
    users["untitled"] = "f5 f0:test"
    found = grouped(world(users, items, no_text="f0"))
    assert found["popularity=0"] == {"cold", "untitled"}
    assert found["cold"] == {"cold"}
    assert found["popularity=tail"] == {"tail", "second"}
    assert found["popularity=head"] == {"head"}


def test_text_and_time_of_the_target():
    users = {
        "same": "f1@1 f2@5 *k1@5 f3@5:test",
        "synthetic-only": "f1@1 *f2@5 f4@5:test",
        "later": "f1@1 f2@4 f3@5:test",
        "validation-counts": "f1@1 f2@5:validation f4@5:test",
    }
    found = grouped(world(users, ITEMS, no_text="f4"))
    assert found["same-time"] == {"same", "validation-counts"}
    assert found["not same-time"] == {"synthetic-only", "later"}
    assert found["no-text"] == {"synthetic-only", "validation-counts"}
    assert found["text"] == {"same", "later"}


def test_a_query_is_grouped_by_the_actions_before_its_target():
    users = {
        "mostly-food": "f1:context f2:context f3:context k1:context k2:test",
        "mostly-kitchen": "f1:context k2:context k1:context k2:test",
        "trained": "f1 f2 f3 k1 f4:test",
    }
    found = grouped(world(users, ITEMS))
    assert found["scarce-domain"] == {"mostly-food"}
    assert found["not scarce-domain"] == {"mostly-kitchen", "trained"}
    assert found["0.7<=imbalance<0.9"] == {"mostly-food", "trained"}
    assert found["imbalance<0.7"] == {"mostly-kitchen"}
    assert found["length<=10"] == set(users)
    assert found["popularity=0"] == {"mostly-food", "mostly-kitchen", "trained"}


def test_nobody_shares_a_time_where_times_are_an_order():
    found = grouped(world({"u": "f1@5 f2@5:test"}, ITEMS, times="order"))
    assert (found["same-time"], found["not same-time"]) == (set(), {"u"})


def test_a_run_without_weights_says_what_to_do(tmp_path: Path):
    with pytest.raises(UserError, match="holds no trained phase"):
        phase_folders(tmp_path)
    for name in ("checkpoint", "pretrained"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    assert list(phase_folders(tmp_path).items()) == [
        ("pretrain", tmp_path / "pretrained"), ("finetune", tmp_path / "checkpoint"),
    ]  # fmt: skip


def test_a_misspelt_protocol_is_refused():
    with pytest.raises(ValidationError, match="protocols"):
        EvaluateConfig(protocols=("sample-100",))
