"""Nights that train from the weights of the night before."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_lake.lake import Manifest
from data_lake.manifest import hash_file
from flows import trainer, warm
from flows.forget import forget_user
from flows.plan import plan
from flows.settings import TrainSettings
from tests.flows.conftest import Place

Ends = Callable[[float, float], None]


@pytest.fixture
def compared_as(monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Let the comparison find these two values, whatever the weights are worth."""

    def ends(new: float, before: float) -> None:
        def compare(*given: Any) -> dict[str, Any]:
            found = trainer.compare_phases(*given)
            found["differences"]["MRR"] |= {"a": new, "b": before}
            return found

        monkeypatch.setattr(warm, "compare_phases", compare)

    return ends


def make(place: Place, name: str, *overrides: str, rebuild: bool = False) -> Manifest:
    with place.open("train.warm=true", *overrides) as run:
        return run.lake.run(next(stage for stage in run.stages if stage.name == name), rebuild)


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def epochs(place: Place, artifact: str) -> int:
    return int(pq.read_metadata(place.lake.path(artifact) / "history.parquet").num_rows)


def test_both_phases_go_on_from_the_current_ones_and_the_manifest_says_so(
    place: Place, compared_as: Ends, capfd: pytest.CaptureFixture[str]
) -> None:
    compared_as(0.25, 0.2)
    for stage, artifact in (("pretrain", "pretrained"), ("finetune", "checkpoint")):
        digest = hash_file(place.lake.path(artifact) / "model.safetensors")
        made = make(place, stage)
        assert made.figures["warm"] == {
            "is_warm": True, "from": digest, "epochs": 1, "metric": "MRR", "new": 0.25, "before": 0.2, "targets": 50,
        }  # fmt: skip
        assert config(place.lake.path(artifact))["before"] == digest
        assert epochs(place, artifact) == 1
        told = f"{stage}: 1 warm epochs reach MRR 0.2500 against 0.2000 of the current {artifact} on 50 validation tar"
        assert told in capfd.readouterr().err


def test_what_is_worse_than_the_current_one_is_trained_from_scratch(
    place: Place, compared_as: Ends, capfd: pytest.CaptureFixture[str]
) -> None:
    compared_as(0.1, 0.2)
    before = {path.name: path.read_bytes() for path in place.lake.path("pretrained").glob("*.safetensors")}
    made = make(place, "pretrain")
    told = "pretrain: trains from scratch, as 1 warm epochs reach MRR 0.1000 against 0.2000 of the current pretrained"
    assert told in capfd.readouterr().err
    assert (made.figures["warm"]["is_warm"], made.figures["warm"]["why"]) == (False, "worse than the current one")
    folder = place.lake.path("pretrained")
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}  # as without warm
    assert "before" not in config(folder)


def test_a_night_killed_while_it_trains_from_scratch_does_not_start_warm_again(
    place: Place, compared_as: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared_as(0.1, 0.2)
    calls = []

    def killed(*given: Any, **options: Any) -> None:
        calls.append(given)
        if "--before" not in given:
            raise KeyboardInterrupt
        trainer.run_model(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(warm, "run_model", killed)
        with pytest.raises(KeyboardInterrupt):
            make(place, "pretrain")
    assert ["--before" in call for call in calls] == [True, False]
    monkeypatch.setattr(warm, "compare_phases", None)
    assert make(place, "pretrain").figures["warm"]["why"] == "worse than the current one"
    assert epochs(place, "pretrained") == 3


@pytest.mark.parametrize(
    ("overrides", "rebuild", "why"),
    [
        (("train.seed=1",), False, "The earlier pretrained does not fit: train.seed 0 -> 1; train without --before."),
        ((), True, "It was asked to be rebuilt."),
    ],
)
def test_where_it_cannot_start_warm_it_says_why_and_trains_from_scratch(
    place: Place, capfd: pytest.CaptureFixture[str], overrides: tuple[str, ...], rebuild: bool, why: str
) -> None:
    made = make(place, "pretrain", *overrides, rebuild=rebuild)
    assert made.figures["warm"] == {"is_warm": False, "why": why}
    assert f"pretrain: trains from scratch, as it cannot start warm: {why}" in capfd.readouterr().err
    assert epochs(place, "pretrained") == 3


def test_without_an_earlier_one_it_trains_from_scratch(place: Place) -> None:
    (place.lake.home / "pretrained" / "current").unlink()
    assert make(place, "pretrain").figures["warm"]["why"] == "The lake holds no pretrained yet."


def test_weights_that_saw_a_forgotten_user_start_nothing(place: Place) -> None:
    user = place.lake.read("sequences", columns=["user_id"])["user_id"][0].as_py()
    with place.open() as run:
        forget_user(run, user)
    for stage in ("ingest", "split", "assemble"):
        make(place, stage)
    assert make(place, "pretrain").figures["warm"]["why"].startswith("The lake no longer keeps the training set")


def test_a_training_that_is_not_warm_has_the_fingerprint_that_it_always_had(place: Place) -> None:
    assert "warm" not in TrainSettings().as_fingerprint()
    assert TrainSettings(warm=True).as_fingerprint() == TrainSettings().as_fingerprint() | {"warm": True}
    with place.open("train.warm=true") as run:
        steps = {step.stage: step for step in plan(run)}
    assert steps["pretrain"].why == "settings: train.warm (not set) -> true"
    assert steps["assemble"].action == "skip"
