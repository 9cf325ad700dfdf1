"""Our trainer beside RecTools, in whose place a script stands that tells figures known beforehand."""

import ast
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.benchmarks.conftest import run_benchmark
from tests.model.conftest import tiny_tables

pytestmark = pytest.mark.slow

RECTOOLS = """\
#!/bin/sh
case "$2" in *'"bce"'*) second=2.0;; *) second=0.05;; esac
echo '{"seconds": 7.0, "loss": null, "figure": 0.1, "peak_mib": 90}'
echo '{"seconds": 3.0, "loss": null, "figure": '$second', "peak_mib": 95}'
echo '{"seconds": 5.0, "loss": null, "figure": 0.2, "peak_mib": 1100}'
"""
"""Three epochs: the best figure comes in the second with `bce`, and is out of reach; else in the third."""


class Measured(NamedTuple):
    """What the command printed, our epochs by their loss, and the actions that RecTools gets."""

    lines: list[str]
    ours: dict[str, list[dict[str, Any]]]
    actions: list[tuple[int, int, int]]


@pytest.fixture(scope="module")
def measured(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    out = tmp_path_factory.mktemp("trainer")
    python = out / "rectools" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(RECTOOLS)
    python.chmod(0o755)
    (out / "rectools" / "installed").touch()
    size = ("--epochs", "2", "--hidden", "8", "--batch", "8", "--threads", "1", "--losses", "sampled", "bce")
    done = run_benchmark("trainer", "--data", tiny_folder, "--out", out, "--to-best", *size)
    assert done.returncode == 0, done.stderr
    ours: dict[str, list[dict[str, Any]]] = {}
    for line in done.stderr.splitlines():
        if line.startswith("trainer_ours.py"):
            ours.setdefault(line.split()[1], []).append(ast.literal_eval(line.partition(": ")[2]))
    held = np.load(out / "actions.npz")
    actions = list(zip(*(held[name].tolist() for name in ("user", "item", "split")), strict=True))
    return Measured(done.stdout.splitlines(), ours, actions)


def test_seconds_are_those_of_an_epoch_after_the_first_and_of_all_until_the_best(measured: Measured) -> None:
    assert "sampled  RecTools       4.00    1,100  0.2000 in 15.0 s" in measured.lines
    assert "bce      RecTools       4.00    1,100  2.0000 in 10.0 s" in measured.lines
    for loss, epochs in measured.ours.items():
        [line] = [line for line in measured.lines if line.startswith(f"{loss:<8} ours")]
        best = max(epochs, key=lambda epoch: epoch["figure"])
        passed = sum(epoch["seconds"] for epoch in epochs[: epochs.index(best) + 1])
        after = "" if loss == "preset" else f"  RecTools takes {4 / epochs[1]['seconds']:.1f} times as long per epoch"
        assert line == (
            f"{loss:<8} ours      {epochs[1]['seconds']:>9.2f} {epochs[1]['peak_mib']:>8,}"
            f"  {best['figure']:.4f} in {passed:.1f} s{after}"
        )


def test_the_time_to_a_figure_is_told_where_it_is_reached(measured: Measured) -> None:
    def until(loss: str, figure: float) -> str:
        passed = 0.0
        for epoch in measured.ours[loss]:
            passed += epoch["seconds"]
            if epoch["figure"] >= figure:
                return f"{passed:.1f} s"
        return "not reached"

    words = "{} to RecTools's best: it {} s, we {}, with our default preset {}"
    assert words.format("sampled ", "15.0", until("sampled", 0.2), until("preset", 0.2)) in measured.lines
    assert words.format("bce     ", "10.0", "not reached", "not reached") in measured.lines


def test_each_loss_and_the_default_preset_train_differently(measured: Measured) -> None:
    assert len({epochs[0]["loss"] for epochs in measured.ours.values()}) == 3


def test_both_trainers_get_the_real_actions_in_their_order(measured: Measured) -> None:
    assert measured.actions == [
        (user, item, split)
        for user, row in enumerate(tiny_tables()["sequences"].to_pylist())
        for item, split, synthetic in zip(row["items"], row["splits"], row["synthetic"], strict=True)
        if not synthetic
    ]
