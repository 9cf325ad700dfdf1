"""What a run would do, stage by stage, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from data_lake.errors import UserError
from data_lake.lake import Lake, Manifest, Stage, State
from flows.run import Run
from flows.selection import StageSelection
from flows.stages import SPECS
from pipeline.llm.backends import NONE
from pipeline.llm.failures import may_pass


@dataclass(frozen=True)
class Step:
    """One stage in a plan or a status.

    `state` is fresh, stale, missing or off; `action` is run, depends (on what another stage makes), skip or off.
    """

    stage: str
    state: str
    action: str
    why: str
    rows: int | None = None
    seconds: float | None = None


def plan(run: Run) -> list[Step]:
    """Return one step per stage of the design, in its order, without reading any data."""
    run.selection.check(run.stages)
    active = {stage.name: stage for stage in run.stages}
    remade: dict[str, str] = {}  # artifact: the stage that will make it
    steps = []
    for spec in SPECS:
        name = spec.name
        if name not in active:
            steps.append(Step(name, "off", "off", f'[{spec.section}] generator = "{NONE}"'))
            continue
        state = run.lake.state(active[name])
        steps.append(_step(run, active[name], state, remade))
        if steps[-1].action in ("run", "depends") and not is_to_ask_again(run, name, state):
            remade |= dict.fromkeys(active[name].makes, name)
    return steps


def is_to_ask_again(run: Run, stage: str, state: State) -> bool:
    """Say whether a stage is fresh, but for questions that got no answer because an endpoint was busy or away."""
    is_wanted = run.selection.only in (None, stage) and not run.selection.is_beyond(stage)
    return is_wanted and state.kind == "fresh" and bool(unanswered(state.manifest))


def unanswered(manifest: Manifest | None) -> dict[str, int]:
    """Return how many questions of a run may be answered another time, by the reason why they were not."""
    failed: dict[str, int] = manifest.figures.get("failed", {}) if manifest else {}
    return {reason: count for reason, count in failed.items() if may_pass(reason)}


def stale_artifacts(run: Run) -> dict[str, str]:
    """Return the artifacts that are not there, or not current with their inputs and settings, and why."""
    makes = {stage.name: stage.makes for stage in run.stages}
    steps = plan(replace(run, request=run.request.model_copy(update={"selection": StageSelection()})))
    return {name: step.why for step in steps if step.state in ("stale", "missing") for name in makes[step.stage]}


def status(run: Run, verify: bool = False) -> list[Step]:
    """Return how each stage stands; `verify` hashes every file of what is current."""
    steps = plan(run)
    if not verify:
        return steps
    makes = {stage.name: stage.makes for stage in run.stages}
    return [_verified(run.lake, step, makes.get(step.stage, ())) for step in steps]


def _step(run: Run, stage: Stage, state: State, remade: dict[str, str]) -> Step:
    selection = run.selection
    rows = seconds = None
    if state.manifest:
        rows, seconds = state.manifest.outputs[stage.makes[0]].rows, round(state.manifest.seconds, 1)
    cause = next((artifact for artifact in stage.reads if artifact in remade), None)
    kind, action, why = state.kind, "skip" if state.kind == "fresh" else "run", state.why
    if selection.only == stage.name and state.blocked:
        raise UserError(f"--only {stage.name}: its input {', '.join(state.blocked)} is missing. Make that first.")
    if selection.only not in (None, stage.name):
        action, why = "skip", f"only {selection.only} is asked for"
    elif selection.is_beyond(stage.name):
        action, why = "skip", f"it comes after {selection.to}"
    elif selection.rebuilds(stage.name):
        action, why = "run", "asked to be rebuilt"
    elif not cause and is_to_ask_again(run, stage.name, state):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in unanswered(state.manifest).items())
        action, why = "run", f"questions that got no answer are asked again ({reasons})"
    elif kind == "fresh" and cause:
        kind, action, why = "stale", "depends", f"stage {remade[cause]} is to make {cause} first"
    return Step(stage.name, kind, action, why, rows, seconds)


def _verified(lake: Lake, step: Step, makes: Sequence[str]) -> Step:
    found = {name: lake.find_alteration(name, full=True) for name in makes if lake.manifest(name)}
    problems = [f"{name}/{problem}" for name, problem in found.items() if problem]
    return replace(step, state="stale", action="run", why="; ".join(problems)) if problems else step
