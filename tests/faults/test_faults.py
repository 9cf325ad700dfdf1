"""Whatever disturbs a run, one more `edt run` makes what an undisturbed one had made, or says in a sentence why not.

Fault number N is the same whenever it is run: `EDT_FAULTS=300 pytest tests/faults -k "fault[17-"`.
"""

import os
import re
import signal
from collections import Counter

import pytest

from data_lake.progress_display import STILL
from tests.faults.faults import KINDS, PRELOADED, Fault
from tests.faults.table import FAULT, STOPPED
from tests.faults.world import CONCURRENCY, Ended

FAULTS = int(os.environ.get("EDT_FAULTS", "20"))
NAMES = list(KINDS)
PROGRESS = re.compile(
    rf"Stale: |{STILL}|\w+ +(skipped: |[0-9.]+ s  |epoch |validation: |test: )|"
    r"(pretrain|finetune) epoch|\w+ failed \(try [12]"
)
"""Lines that tell how a run goes."""
MOST_LINES = 3
KEEP_ANSWERS = ("SIGTERM", "SIGINT", "clock goes back", "endpoint fails", "endpoint hangs up", "input changed")
"""Kinds after which the lake holds every answer but those that were under way. The others take some from it that it
had, or end a run between an answer and the next writing, which is a second later."""
FINGERPRINT = re.compile(r"\b[0-9a-f]{64}\b")
NOT_OURS = {"input changed": re.compile(r"\w+/[0-9a-f]{64}/")}
"""Files that a kind leaves beside those of an undisturbed run: the lake keeps earlier versions."""


def _said_badly(ended: Ended | None, which: str) -> list[str]:
    """Return what is wrong with the words of a run: there are too many, or none where it failed."""
    if ended is None or ended.code < 0:
        return []
    said = [line for line in ended.err.splitlines() if not PROGRESS.match(line)]
    problems = [f"the {which} run said {len(said)} lines"] if len(said) > MOST_LINES else []
    if ended.code not in (0, 128 + signal.SIGINT) and not ended.errors:
        problems.append(f"the {which} run ended with {ended.code} and said no error")
    return problems + [f"the {which} run showed a traceback"] * ("Traceback" in ended.err)


def _differences(found: dict[str, str], expected: dict[str, str], fault: Fault) -> list[str]:
    if fault.may_vary:
        found, expected = ({FINGERPRINT.sub("*", name): "" for name in tree} for tree in (found, expected))
    ours = NOT_OURS.get(fault.kind)
    extra = [name for name in found.keys() - expected.keys() if not (ours and ours.match(name))]
    return [
        *(f"left over: {name}" for name in sorted(extra)),
        *(f"is not there: {name}" for name in sorted(expected.keys() - found.keys())),
        *(f"differs: {name}" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]),
    ]


@pytest.mark.parametrize(
    "number", range(FAULTS), ids=lambda number: f"{number}-{NAMES[number % len(NAMES)].replace(' ', '-')}"
)
def test_fault(number, world, disk, own_prefect, record_property, tmp_path):
    kind = NAMES[number % len(NAMES)]
    if kind in PRELOADED and disk is None:
        pytest.skip("no C compiler: the calls of a run cannot be disturbed")
    fault = Fault(number, kind, world, disk)
    place = world.place(tmp_path / "place", own_prefect if kind == "server killed" else None)
    fault.unmake(place)
    ending = {"kind": kind, STOPPED: False, "outcome": "lost"}
    record_property(FAULT, ending)
    with place.endpoint as endpoint:
        disturbed = fault.strike(place)
        ending[STOPPED] = disturbed is not None and disturbed.code != 0
        told = Counter(endpoint.script.told)
        held = place.held()
        known = [prompt for prompt in told if endpoint.script.text(prompt) in held]
        repaired = place.run()
        again = [prompt for prompt in known if endpoint.script.told.count(prompt) > told[prompt]]
        problems = [*_said_badly(disturbed, "disturbed"), *_said_badly(repaired, "repairing")]
        problems += [f"asked again: {prompt}" for prompt in again]
        if kind in KEEP_ANSWERS and len(told) - len(known) > CONCURRENCY:
            problems.append(f"the lake holds {len(known)} of {len(told)} answers")
        outcome = "survived"
        if repaired.code != 0:
            outcome = "refused"
            advice = re.search(r"--rerun (\w+)", repaired.err)
            repaired = place.run("run", "--rerun", advice[1]) if advice else repaired
        problems += _differences(place.tree(), world.tree, fault) if repaired.code == 0 else []
    words = "\n".join(ended.err for ended in (disturbed, repaired) if ended)
    assert not problems, f"fault {number}, {kind}: {fault.story}\n" + "\n".join(problems) + f"\n{words}"
    ending["outcome"] = outcome
