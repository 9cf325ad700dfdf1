import os

import pytest

from data_lake.errors import UserError
from flows.plan import plan, status
from flows.stages import SPECS, STAGES
from tests.flows.by_default import OFF, ON_BY_DEFAULT


def steps(place, *overrides, **selection):
    with place.open(*overrides, **selection) as run:
        return {step.stage: step for step in plan(run)}


def actions(place, *overrides, **selection):
    found = {}
    for name, step in steps(place, *overrides, **selection).items():
        found.setdefault(step.action, []).append(name)
    return found


def test_after_a_run_everything_is_fresh(finished):
    assert actions(finished) == {"skip": list(ON_BY_DEFAULT), "off": OFF}
    assert steps(finished)["split"].rows == 50


def test_one_profile_setting_makes_only_profiling_stale_and_what_follows_depends(finished):
    found = actions(finished, "profile.words=80")
    assert found["run"] == ["profile_domains", "profile_users"]
    assert found["depends"] == ["embed_profiles", "assemble", "pretrain", "finetune", "evaluate", "recommend"]
    assert steps(finished, "profile.words=80")["profile_domains"].why == "settings: profile.words 50 -> 80"


def test_a_setting_of_one_phase_leaves_the_other_alone(finished):
    assert actions(finished, "train.finetune.epochs=2")["run"] == ["finetune"]
    assert actions(finished, "train.pretrain.epochs=2")["run"] == ["pretrain"]


@pytest.mark.parametrize(
    "override",
    [
        "enrich.rows_per_shard=7",
        "embed.batch_size=8",
        "lake.keep=9",
        "train.processes=2",
        "evaluate.batch_size=3",
        "llm.max_failed=0.5",
        "llm.max_useless=0.4",
    ],
)
def test_what_changes_no_result_makes_nothing_stale(finished, override):
    assert actions(finished, override) == {"skip": list(ON_BY_DEFAULT), "off": OFF}


def test_what_comes_after_the_last_stage_asked_for_is_left_alone(finished):
    selection = {"from_": "ground", "to": "profile_domains"}
    found = actions(finished, "train.finetune.epochs=2", **selection)
    asked = STAGES[STAGES.index("ground") : STAGES.index("profile_domains") + 1]
    assert found == {"run": list(asked), "skip": [name for name in ON_BY_DEFAULT if name not in asked], "off": OFF}
    assert steps(finished, **selection)["pretrain"].why == "it comes after profile_domains"


def test_full_makes_every_stage_up_to_the_last_one_asked_for(finished):
    assert actions(finished, full=True) == {"run": list(ON_BY_DEFAULT), "off": OFF}
    found = actions(finished, full=True, to="split")
    assert found == {"run": ["ingest", "split"], "skip": list(ON_BY_DEFAULT[2:]), "off": OFF}


def test_without_a_generator_the_enrichment_is_off(finished):
    found = actions(finished, "enrich.generator=none")
    assert found["off"] == [spec.name for spec in SPECS if spec.enriches or spec.describes]
    assert found["run"] == ["assemble"]


def test_a_changed_raw_file_is_named(place):
    with (place.folder / "items.csv").open("a") as file:
        file.write("i-new,food,New item\n")
    assert steps(place)["ingest"].why == "source items.csv changed"


def test_a_spoiled_artifact_is_stale_at_once_or_on_verification(place):
    part = place.lake.path("sequences") / "part-00000.parquet"
    stat = part.stat()
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    os.utime(part, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with place.open() as run:
        assert status(run)[1].state == "fresh"
        verified = status(run, verify=True)[1]
    assert (verified.stage, verified.state) == ("split", "stale")
    assert "content differs" in verified.why


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (dict(only="nope"), "'nope' is no stage"),
        (dict(only="groud"), r"'groud' is no stage\. Did you mean 'ground'\? The stages are ingest, "),
        (dict(only="split", from_="ingest"), "exclude each other"),
        (dict(full=True, rerun=("split",)), "exclude each other"),
        (dict(only="split", to="ground"), "--only and --to exclude each other"),
        (dict(to="nope"), "'nope' is no stage"),
        (dict(from_="ground", to="split"), "Stage ground comes after --to split"),
        (dict(rerun=("split", "nope")), "'nope' is no stage"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(finished, selection, message):
    with pytest.raises(UserError, match=message):
        actions(finished, **selection)


def test_a_stage_that_is_off_cannot_be_chosen(finished):
    with pytest.raises(UserError, match="ground is off"):
        actions(finished, "enrich.generator=none", rerun=("ground",))
