import pytest

from flows.plan import plan
from flows.show import describe, format_artifact
from pipeline.profile import measure_profiles


@pytest.mark.parametrize(
    ("overrides", "scopes"),
    [
        ((), ["all"]),
        (("train.aggregate=gate",), ["food", "kitchen"]),
        (("train.pretrain.align_weight=0",), []),
    ],
)
def test_only_profile_vectors_that_training_reads_are_made(fresh_place, overrides, scopes):
    with fresh_place.open(*overrides, to="assemble") as run:
        for stage in run.selection.apply(run.stages):
            run.lake.run(stage)
    made = fresh_place.lake.read("training_set", "profile_vectors")
    assert sorted(set(made["scope"].to_pylist())) == scopes


def test_how_much_profiles_pull_makes_no_vector_anew(finished):
    with finished.open("train.pretrain.align_weight=0.3") as run:
        actions = {step.stage: step.action for step in plan(run)}
    assert (actions["embed_profiles"], actions["pretrain"]) == ("skip", "run")


def until_profiles_are_embedded(place, *overrides):
    with place.open(*overrides, to="embed_profiles") as run:
        for stage in run.selection.apply(run.stages):
            made = run.lake.run(stage)
    return made.figures


def test_profiles_are_shown_with_how_many_choices_they_find(place):
    domains = until_profiles_are_embedded(place, "train.aggregate=gate", "profile.last_items=3")
    pairs = [f"{scope} to {domain}" for scope in ("food", "kitchen") for domain in ("food", "kitchen")]
    assert list(domains["held_out"]["found"]) == pairs
    overall = until_profiles_are_embedded(place, "profile.last_items=3")
    assert list(overall["held_out"]["found"]) == ["all to food", "all to kitchen"]
    figures = overall["held_out"]["found"]["all to food"]
    assert figures["users"] > 0
    assert figures["low"] <= figures["share"] <= figures["high"]
    shown = " ".join(format_artifact(describe(place.lake, "profile_embeddings")).split())
    assert f"held_out: found: all to food users {figures['users']}, choices {figures['choices']}, share" in shown


def test_profiles_that_say_less_than_what_was_shown_are_warned_of(place, monkeypatch, capfd):
    monkeypatch.setattr(measure_profiles, "complaints", lambda rows: ["profiles of all say less"])
    until_profiles_are_embedded(place, "profile.last_items=3")
    assert "embed_profiles: warning: profiles of all say less.\n" in capfd.readouterr().err
