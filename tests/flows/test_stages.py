"""A stage is declared once: what it may read, when it is on, and what is derived from that."""

from dataclasses import replace

import pytest

from data_lake.config import UndeclaredSettingError
from flows.settings import load_settings
from flows.stage_spec import StageSpec
from flows.stages import ASKING, SPECS, STAGES, stages
from pipeline.llm.backends import BACKENDS
from pipeline.llm.retrieval import Retrieval

BY_NAME = {spec.name: spec for spec in SPECS}


def without(name, setting):
    spec = BY_NAME[name]
    return replace(spec, settings=tuple(each for each in spec.settings if each != setting))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("ingest", "data"),
        ("split", "split"),
        ("represent", "enrich.representatives"),
        ("represent", "enrich.budget"),
        ("ground", "enrich.sample"),
        ("ground", "enrich.faithful_quantile"),
        ("insert", "enrich.place"),
        ("profile_domains", "profile.last_items"),
        ("profile_users", "profile.user_words"),
    ],
)
def test_reading_a_setting_that_the_declaration_lacks_is_an_error_at_once(place, name, setting):
    with place.open() as run:
        stage = without(name, setting).stage(run.settings, run.models)
        with pytest.raises(UndeclaredSettingError, match="by a stage that does not declare it"):
            run.lake.run(replace(stage, version=99))


def test_a_declared_setting_that_does_not_exist_is_an_error_before_anything_runs(finished):
    with finished.open() as run, pytest.raises(ValueError, match="EnrichConfig has no setting bugdet"):
        replace(BY_NAME["represent"], settings=("enrich.bugdet",)).stage(run.settings, run.models)


def test_the_settings_of_the_trainer_are_all_in_one_fingerprint_or_change_no_result(finished):
    with finished.open("train.warm=true") as run:
        by_name = {stage.name: stage.settings["train"].keys() for stage in run.stages if "train" in stage.settings}
    machine = {"threads", "device", "compile", "stream", "processes"}
    everything = type(run.settings.train).model_fields.keys()
    assert by_name == {
        "pretrain": everything - machine - {"finetune"}, "finetune": everything - machine - {"pretrain"},
    }  # fmt: skip


def test_what_is_off_without_a_generator_and_who_asks_follow_from_the_declarations(finished):
    with finished.open("enrich.generator=none") as run:
        off = [name for name in STAGES if name not in [stage.name for stage in run.stages]]
    assert off == [spec.name for spec in SPECS if spec.enriches or spec.describes]
    assert ASKING == {
        "describe_items": "item_descriptions", "generate_items": "generated_items",
        "profile_domains": "domain_profiles", "profile_users": "user_profiles",
    }  # fmt: skip


def test_a_plain_stage_is_added_by_its_declaration_alone(place):
    def work(run):
        run.io.write("rejects", run.io.read("rejects").slice(0, 0))
        run.io.count(keep=run.settings.lake.keep)

    spec = StageSpec("trim", 1, ("rejects",), ("rejects",), ("lake.keep",), work)
    with place.open() as run:
        [*_, added] = stages(run.settings, run.models, (*SPECS, spec))
        assert (added.name, added.reads, added.settings) == ("trim", ("rejects",), {"lake": {"keep": 3}})
        assert run.lake.run(added).figures == {"keep": 3}


class Backwards(Retrieval):
    """A generator of its own class, in one table line."""

    def __init__(self) -> None:
        super().__init__()


def test_a_generator_is_added_by_one_line_of_the_table(fresh_place, monkeypatch):
    monkeypatch.setitem(BACKENDS, "backwards", lambda settings, before_start: Backwards())
    with fresh_place.open("enrich.generator=backwards", to="profile_users") as run:
        made = [run.lake.run(stage).stage for stage in run.selection.apply(run.stages)]
    assert made[-1] == "profile_users"
    assert run.lake.manifest("user_profiles").settings["generator"] == "backwards"
    assert set(run.lake.read("user_profiles")["status"].to_pylist()) <= {"ok", "failed"}


def test_one_seed_at_the_top_is_the_default_of_all_others(place):
    def seeds(*overrides):
        settings = load_settings(place.config, overrides)
        return [settings.data.seed, settings.enrich.seed, settings.profile.seed, settings.llm.seed, settings.train.seed]

    assert seeds() == [0] * 5
    assert seeds("seed=7") == [7] * 5
    assert seeds("seed=7", "train.seed=3") == [7, 7, 7, 7, 3]
