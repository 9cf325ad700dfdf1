"""Whether a checkpoint may replace the current one: both are measured before it is published."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_lake.errors import HeldBack, UserError
from flows.settings import GateConfig
from flows.stage_spec import StageRun
from flows.text import log
from flows.trainer import compare_phases
from model.config import EvaluateConfig

READS = ("gate", "evaluate.users", "evaluate.resamples", "evaluate.batch_size", "evaluate.device", "evaluate.stream")
"""Settings that the check reads."""


def check_gate(run: StageRun, checkpoint: Path) -> None:
    """Measure a new checkpoint and the current one on the new one's validation targets, where `[gate] worst` is set.

    Raises HeldBack where the new one is worse by more. Where there is nothing to compare it with, the log says why.
    """
    gate = run.settings.gate
    if gate.worst is None:
        return
    try:
        before = run.io.current("checkpoint")
    except UserError as error:
        _log_unmeasured(str(error))
        return
    if before is None:
        return
    before_data = run.io.current_input("training_set", of="checkpoint")
    if before_data is None:
        _log_unmeasured("the lake no longer keeps the training set that it was made from")
        return
    names = {name.removeprefix("evaluate.") for name in READS if name.startswith("evaluate.")}
    cfg = EvaluateConfig(**{name: getattr(run.settings.evaluate, name) for name in names})
    found = compare_phases(run.io.input("training_set"), "checkpoint", checkpoint, before, before_data, cfg)
    if found["unmeasured"] or not found["differences"]:
        _log_unmeasured(found["unmeasured"] or f"it knows none of the {found['unknown']:,} validation targets")
        return
    it = found["differences"][gate.metric]
    run.io.count(gate={"new": it["a"], "before": it["b"], "targets": found["targets"]})
    told = verdict(gate, it, found)
    if is_worse(gate, it["a"], it["b"]):
        raise HeldBack(
            f"The new checkpoint is held back: {told}",
            "The current one and its recommendations stay. What was trained is kept, so that a run with --set "
            f"gate.worst={wide_enough(it['a'], it['b']):g} publishes it without training; new data trains anew.",
        )
    log(f"finetune: the new checkpoint passes the gate: {told}")


def is_worse(gate: GateConfig, new: float, before: float) -> bool:
    """Say whether the new figure lies below the earlier one by more than the gate allows."""
    return gate.worst is not None and new < (1 - gate.worst) * before


def wide_enough(new: float, before: float) -> float:
    """Return a share, of whole twentieths, by which the new figure may be worse and is."""
    return min(1.0, math.ceil(20 * (1 - new / before)) / 20)


def verdict(gate: GateConfig, it: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return both figures, how far apart they are, and on what they were measured."""
    relative = f"{(it['a'] - it['b']) / it['b']:+.1%}" if it["b"] else "no relative difference"
    left_out = {"that it does not know": found["unknown"], "that it was trained on": found["trained_on"]}
    without = ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)
    return (
        f"{gate.metric} {it['a']:.4f} against {it['b']:.4f} of the current one ({relative}; [gate] worst = "
        f"{gate.worst:g}) on {found['targets']:,} validation targets" + (f", without {without}" if without else "")
    )


def _log_unmeasured(why: str) -> None:
    log(f"finetune: [gate] compares nothing, as the current checkpoint cannot be measured: {why.removesuffix('.')}.")
