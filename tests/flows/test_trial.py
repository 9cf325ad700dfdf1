"""A trial on a small world: what is asked, what is compared, and what is said."""

import json

import pytest

from data_lake.errors import UserError
from data_lake.lake import Lake
from flows.run import RunRequest
from flows.trial import told, trial, verdict
from model.evaluation.compare import Difference
from pipeline.sample_world.simulate import SimulateConfig

SET = ("train.pretrain.epochs=1", "enrich.probes=20", "enrich.rows_per_shard=500", 'evaluate.protocols=["full"]')


def difference(low, mean, high, without=0.2, users=400):
    return Difference("HR@10", users, without + mean, without, mean, low, high, 0.5)


def test_a_gain_whose_interval_lies_above_zero_pays():
    assert verdict(difference(0.001, 0.01, 0.02), kept=9) == "yes"


def test_a_gain_below_one_percent_at_best_does_not_pay():
    assert verdict(difference(-0.01, -0.004, 0.0019), kept=9) == "no"


def test_where_nothing_is_inserted_nothing_pays_whatever_two_trainings_gave():
    assert verdict(difference(0.001, 0.01, 0.02), kept=0).startswith(
        "no: no kind of its answers was sure to beat chance"
    )


def test_a_wide_interval_says_how_many_users_would_tell():
    # half the interval is four times the difference: sixteen times the users
    assert verdict(difference(-0.03, 0.01, 0.05), kept=9) == "400 users are too few to tell; about 6,400 would do"
    assert verdict(difference(-0.001, 0.01, 0.021), kept=9) == "400 users are too few to tell; about 800 would do"


@pytest.fixture(scope="module")
def tried(new_place, tmp_path_factory):
    place = new_place(tmp_path_factory.mktemp("trial") / "place", SimulateConfig(users=120, items=60, length=16))
    return place, trial(RunRequest(config=place.config, overrides=SET), users=8, seeds=2)


def test_only_the_users_of_the_trial_and_probes_are_asked_about(tried):
    place, _ = tried
    lake = Lake(place.folder / "trial" / "lake", "tiny")
    probes = set(lake.read("probes")["user_id"].to_pylist())
    asked = set(lake.read("generated_items")["user_id"].to_pylist())
    assert len(asked - probes) == 8
    assert set(lake.read("domain_profiles")["user_id"].to_pylist()) == asked - probes


def test_with_and_without_are_compared_on_the_hidden_targets_of_the_trial_s_users(tried):
    place, outcome = tried
    assert [each.metric for each in outcome.differences] == ["HR@10", "NDCG@10"]
    assert {each.users for each in outcome.differences} == {8}
    saved = json.loads((place.folder / "trial" / "result.json").read_text())
    assert saved["differences"][0]["a"] == outcome.differences[0].a
    said = told(outcome)
    assert said.startswith("Trial of 8 users, 2 training seeds")
    assert "No language model is asked." in said
    assert said.endswith(f"Does it pay? {outcome.verdict.capitalize()}.")


def test_the_lake_of_the_data_gets_nothing_but_the_sequences(tried):
    place, _ = tried
    assert place.lake.manifest("sequences")
    assert place.lake.manifest("representatives") is None


def test_without_a_generator_there_is_nothing_to_try(place):
    with pytest.raises(UserError, match="a trial compares a generator with none"):
        trial(RunRequest(config=place.config, overrides=("enrich.generator=none",)), users=5, seeds=1)
