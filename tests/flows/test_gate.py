"""The gate: a checkpoint that is much worse than the current one is held back before it is published."""

import html
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_lake.errors import HeldBack
from flows.gate import is_worse, verdict, wide_enough
from flows.plan import plan, status
from flows.recommend import model_folders
from flows.report.report import collect
from flows.settings import GateConfig
from tests.flows.conftest import Place

WORSE = ("enrich.generator=none", "train.finetune.learning_rate=100.0", "train.finetune.clip=0.0")
GATE = "gate.worst=0.3"


@dataclass
class Refused:
    """A night whose checkpoint was held back: the place, what its lake held before, and what the run said."""

    place: Place
    before: dict[str, str]
    said: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def refused(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Refused:
    place = Place(tmp_path_factory.mktemp("refused") / "place")
    shutil.copytree(finished.folder, place.folder, symlinks=True)
    before = place.contents()
    (place.lake.home / "report.html").unlink()
    settings = (*WORSE, GATE, "report.after_run=true")
    said = place.edt("run", *(part for each in settings for part in ("--set", each)))
    return Refused(place, before, said)


@pytest.fixture
def copied(refused: Refused, tmp_path: Path) -> Place:
    """A copy of the place of the refused night, to change things in."""
    place = Place(tmp_path / "place")
    shutil.copytree(refused.place.folder, place.folder, symlinks=True)
    return place


def test_a_refused_night_ends_with_1_and_one_sentence_with_both_figures(refused: Refused) -> None:
    assert refused.said.returncode == 1, refused.said.stderr
    [line] = [line for line in refused.said.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: The new checkpoint is held back: NDCG@10 0.")
    assert "[gate] worst = 0.3) on 50 validation targets. The current one and its recommendations stay." in line


def test_the_checkpoint_and_the_lists_of_the_night_before_stay_current(refused: Refused) -> None:
    now = refused.place.contents()
    assert {name for name in now if now[name] != refused.before[name]} == {"training_set", "pretrained"}
    for artifact in ("checkpoint", "metrics", "ranks", "recommendations"):
        assert now[artifact] == refused.before[artifact]


def test_the_model_is_served_with_the_training_set_that_it_was_made_from(refused: Refused) -> None:
    lake = refused.place.lake
    data, checkpoint = model_folders(lake)
    assert checkpoint == lake.path("checkpoint")
    assert data != lake.path("training_set")
    assert lake.manifest("checkpoint").inputs["training_set"].content == refused.before["training_set"]


def test_plan_and_status_say_why_the_checkpoint_is_not_the_new_one(refused: Refused) -> None:
    with refused.place.open(*WORSE, GATE) as run:
        for steps in (plan(run), status(run)):
            [step] = [each for each in steps if each.stage == "finetune"]
            assert (step.state, step.action) == ("stale", "run")
            assert step.why.startswith("The new checkpoint is held back: NDCG@10 0.")


def test_a_refused_night_leaves_a_report_that_says_what_was_held_back_and_what_stays(refused: Refused) -> None:
    path = refused.place.lake.home / "report.html"
    assert f"Report: {path}" in refused.said.stderr
    [error] = [line for line in refused.said.stderr.splitlines() if line.startswith("error:")]
    why = error.removeprefix("error: ").partition(". The current one")[0]
    [note] = re.findall(r'<p class="note"><b>Held back.</b> (.*?)</p>', path.read_text(encoding="utf-8"))
    assert html.unescape(note) == (
        f"{why}. The checkpoint, metrics and recommendations of the run before stay current and are shown here."
    )


def test_a_report_with_other_settings_speaks_of_nothing_held_back(refused: Refused) -> None:
    with refused.place.open() as run:
        assert collect(run).held_back == ""


@pytest.mark.slow
def test_the_next_run_refuses_again_without_training_and_a_wider_gate_publishes(
    refused: Refused, copied: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    with copied.open(*WORSE, GATE) as run:
        finetune = next(stage for stage in run.stages if stage.name == "finetune")
        with pytest.raises(HeldBack, match="stay"):
            run.lake.run(finetune)
    assert "finetune: 1 epochs are trained already" in capfd.readouterr().err
    with copied.open(*WORSE, "gate.worst=0.99") as run:
        finetune = next(stage for stage in run.stages if stage.name == "finetune")
        made = run.lake.run(finetune)
    told = capfd.readouterr().err
    assert "finetune: 1 epochs are trained already" in told
    assert "finetune: the new checkpoint passes the gate: NDCG@10 " in told
    assert made.figures["gate"]["new"] < made.figures["gate"]["before"]
    assert copied.contents()["checkpoint"] != refused.before["checkpoint"]


@pytest.mark.slow
def test_a_return_to_earlier_settings_trains_nothing_and_is_measured_all_the_same(
    refused: Refused, copied: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    def make(*overrides: str) -> str:
        with copied.open(*overrides) as run:
            for stage in run.stages:
                if stage.name in ("assemble", "pretrain", "finetune"):
                    run.lake.run(stage)
        return copied.contents()["checkpoint"]

    worse = make(*WORSE)
    assert worse != refused.before["checkpoint"]
    capfd.readouterr()
    assert make(GATE) == refused.before["checkpoint"]
    assert "finetune: the new checkpoint passes the gate: NDCG@10 " in capfd.readouterr().err
    with pytest.raises(HeldBack, match="stay"):
        make(*WORSE, GATE)
    assert copied.contents()["checkpoint"] == refused.before["checkpoint"]
    assert "epoch" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_corrupted_checkpoint_keeps_no_new_one_from_being_published(
    refused: Refused, copied: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    with (copied.lake.path("checkpoint") / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with copied.open(*WORSE, GATE) as run:
        run.lake.run(next(stage for stage in run.stages if stage.name == "finetune"))
    assert (
        "[gate] compares nothing, as the current checkpoint cannot be measured: checkpoint/" in capfd.readouterr().err
    )
    assert copied.contents()["checkpoint"] != refused.before["checkpoint"]


def test_the_gate_makes_no_artifact_stale(place: Place) -> None:
    with place.open("gate.worst=0.01", "gate.metric=HR@5") as run:
        assert {step.action for step in plan(run)} == {"skip", "off"}


@pytest.mark.parametrize(
    ("new", "before", "worse"), [(0.95, 1.0, False), (0.949, 1.0, True), (0.0, 0.0, False), (1.0, 0.0, False)]
)
def test_worse_is_what_lies_below_by_more_than_the_share(new: float, before: float, worse: bool) -> None:
    assert is_worse(GateConfig(worst=0.05), new, before) == worse


@pytest.mark.parametrize(("new", "before", "worst"), [(0.58, 1.0, 0.45), (0.0, 1.0, 1.0), (0.9, 1.0, 0.1)])
def test_what_is_proposed_lets_the_checkpoint_pass(new: float, before: float, worst: float) -> None:
    assert wide_enough(new, before) == pytest.approx(worst)
    assert not is_worse(GateConfig(worst=wide_enough(new, before)), new, before)


def test_the_verdict_tells_both_figures_and_what_was_left_out() -> None:
    found = {"targets": 1234, "unknown": 5, "trained_on": 0}
    assert verdict(GateConfig(worst=0.05), {"a": 0.038, "b": 0.04}, found) == (
        "NDCG@10 0.0380 against 0.0400 of the current one (-5.0%; [gate] worst = 0.05) on 1,234 validation targets, "
        "without 5 that it does not know"
    )
