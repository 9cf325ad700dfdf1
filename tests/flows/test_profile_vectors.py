import pytest

from flows.plan import plan


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
