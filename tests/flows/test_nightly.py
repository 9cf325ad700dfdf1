import doctest
import json

import pyarrow.compute as pc
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ParameterTypeError

from data_lake.errors import UserError
from flows import page
from flows.nightly import SERVED, nightly
from flows.stages import STAGES
from tests.flows.by_default import ON_BY_DEFAULT


def test_a_second_run_makes_nothing(place):
    assert place.run() == []


def test_rerun_makes_the_stage_and_nothing_after_it_where_the_content_is_the_same(place):
    before = place.contents()
    assert place.run(rerun=("represent", "insert")) == ["represent", "insert"]
    assert place.contents() == before


def test_from_makes_the_stage_and_all_that_follow(place):
    before = place.contents()
    assert place.run(from_="evaluate") == ["evaluate", "recommend"]
    assert place.contents() == before


def test_to_makes_what_is_stale_up_to_the_stage_and_stops(place):
    changed = ("profile.words=40", "train.finetune.epochs=2")
    assert place.run(to="profile_domains", set_=changed) == ["profile_domains"]


def test_from_with_to_makes_the_stages_between_and_keeps_all_after_them(place):
    before = place.contents()
    assert place.run(from_="represent", to="generate_items") == ["represent", "generate_items"]
    assert place.contents() == before
    assert place.run() == []


def test_full_makes_again_what_is_fresh_to_the_same_content(place):
    before = place.contents()
    assert place.run(full=True, to="represent") == list(ON_BY_DEFAULT[: ON_BY_DEFAULT.index("represent") + 1])
    assert place.contents() == before


def test_only_makes_one_stage_from_the_current_inputs(place):
    changed = ("recommend.top=3", "evaluate.resamples=30")
    assert place.run(only="recommend", set_=changed) == ["recommend"]
    assert pc.max(place.lake.read("recommendations")["rank"]).as_py() == 3
    assert place.run(only="recommend", set_=changed) == []


def test_only_names_the_input_that_is_missing(place):
    (place.lake.home / "checkpoint" / "current").unlink()
    with pytest.raises(UserError, match=r"recommend.*checkpoint"):
        place.run(only="recommend", set_=("recommend.top=3",))


def test_a_change_without_effect_on_the_content_stops_where_it_has_none(place):
    made = place.run(set_=("profile.max_tokens=99",))  # decides no text of a template
    assert made == ["profile_domains", "profile_users"]


def test_without_a_generator_the_enrichment_is_left_out(place):
    made = place.run(set_=("enrich.generator=none",))
    assert made == ["assemble", "pretrain", "finetune", "evaluate", "recommend"]
    sequences = place.lake.read("training_set", "sequences")
    assert not pc.any(pc.list_flatten(sequences["synthetic"])).as_py()
    assert place.lake.read("training_set", "profile_vectors").num_rows == 0
    assert place.lake.read("metrics").num_rows > 0


def test_an_enriched_run_inserts_items_that_are_context_only(finished):
    sequences = finished.lake.read("augmented_sequences")
    synthetic = pc.list_flatten(sequences["synthetic"])
    assert pc.sum(synthetic).as_py() > 0
    assert set(pc.filter(pc.list_flatten(sequences["splits"]), synthetic).to_pylist()) == {"train"}


def test_prefect_shows_a_table_per_stage(finished):
    with get_client(sync_client=True) as client:
        keys = ArtifactFilter(key=ArtifactFilterKey(like_="%-manifest"))
        shown = {artifact.key for artifact in client.read_artifacts(artifact_filter=keys, limit=200)}
    assert shown >= {f"{name.replace('_', '-')}-manifest" for name in ON_BY_DEFAULT}


def test_a_stage_that_fails_for_a_reason_of_the_users_is_not_tried_again(place):
    (place.folder / "interactions.csv").write_text("user_id,item_id,timestamp\nu,unknown,1700000000\n")
    with pytest.raises(UserError, match="bad"):
        place.run()  # a second try would come after 10 seconds, and the test would not end in time
    assert place.lake.read("interactions").num_rows > 0  # what was current still is


@pytest.mark.parametrize(
    "given", ["openai.base_url=http://thief", "lake.root=s3://thief", " embed.model=thief", "scale.address=thief"]
)
def test_a_run_that_came_through_the_server_may_not_set_where_keys_and_data_go(place, monkeypatch, given):
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "served")
    with pytest.raises(UserError, match=r"was set from outside, through Prefect's server"):
        place.run(set_=("recommend.top=3", given))


def test_a_run_that_came_through_the_server_may_set_the_rest_and_what_serve_was_given(place, monkeypatch):
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "served")
    monkeypatch.setenv(SERVED, '["lake.keep=4"]')
    assert place.run(set_=("lake.keep=4", "recommend.top=3")) == ["recommend"]


def page_of(**conditions):
    """Return the name, the log lines and the artifacts of the flow run that began last."""
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        lines = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
        of_run = ArtifactFilterFlowRunId(any_=[run.id])
        shown = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=of_run), limit=200)
    return run.name, [line.message for line in lines], {each.key: each for each in shown}


def test_the_page_of_a_run_has_its_name_its_lines_and_its_key_figures(place):
    place.run(rerun=("finetune", "evaluate"))
    name, lines, shown = page_of()
    assert name == "tiny: made finetune, evaluate"
    assert any(line.startswith("finetune epoch 1/1: loss ") for line in lines)
    assert any(line.startswith("finetune ") and line.endswith(" s  checkpoint 1") for line in lines)
    epochs = json.loads(shown["finetune-figures"].data)
    assert [row["epoch"] for row in epochs] == [1]
    measured = json.loads(shown["evaluate-figures"].data)
    assert {(row["protocol"], row["domain"]) for row in measured} > {("full", "food"), ("sampled-100", "kitchen")}
    counted = {row["figure"]: row["value"] for row in json.loads(shown["ground-figures"].data)}
    assert int(counted["kept"].replace(",", "")) > 0


def test_stages_are_spoken_of_as_their_examples_say():
    assert doctest.testmod(page).failed == 0


def test_stages_are_chosen_from_a_list_and_no_other_is_taken(place):
    schema = nightly.parameters.definitions["StageName"]
    assert schema["enum"] == list(STAGES)
    with pytest.raises(ParameterTypeError, match="only: Input should be 'ingest', 'split'"):
        nightly(place.config, only="grond")
