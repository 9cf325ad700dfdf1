"""What a run would do, stage by stage, and why; and the choice of stages that a person made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from data_lake.errors import UserError
from data_lake.lake import Lake, Stage
from flows.stages import STAGES


@dataclass(frozen=True)
class Choice:
    """Which stages to make although they are fresh, the only one to make at all, or the last one."""

    only: str | None = None
    from_: str | None = None
    rerun: tuple[str, ...] = ()
    to: str | None = None

    def check(self, stages: Sequence[Stage]) -> None:
        """Raise `UserError` for a name that is no stage, is off, or for choices that contradict each other."""
        if sum(map(bool, (self.only, self.from_, self.rerun))) > 1:
            raise UserError("--only, --from and --rerun exclude each other. Give one of them.")
        if self.only and self.to:
            raise UserError("--only and --to exclude each other. Give one of them.")
        running = [stage.name for stage in stages]
        for name in (self.only, self.from_, *self.rerun, self.to):
            if name and name not in STAGES:
                raise UserError(f"{name!r} is no stage. The stages are {', '.join(STAGES)}.")
            if name and name not in running:
                raise UserError(f"Stage {name} is off with these settings. Set [enrich] generator to turn it on.")
        for name in (self.from_, *self.rerun):
            if name and self.beyond(name):
                raise UserError(f"Stage {name} comes after --to {self.to}. Name a later stage there.")

    def take(self, lake: Lake, stages: Sequence[Stage]) -> list[Stage]:
        """Request the rebuilds that are chosen, and return the stages to go through, in order."""
        self.check(stages)
        for stage in stages:
            if self.forgets(stage.name):
                lake.request_rebuild(stage)
        return [stage for stage in stages if self.only in (None, stage.name) and not self.beyond(stage.name)]

    def beyond(self, stage: str) -> bool:
        """Say whether the stage comes after the last one to make."""
        return self.to is not None and STAGES.index(stage) > STAGES.index(self.to)

    def forgets(self, stage: str) -> bool:
        """Say whether the stage is made anew whatever the lake holds of it."""
        if self.beyond(stage):
            return False
        if self.from_:
            return STAGES.index(stage) >= STAGES.index(self.from_)
        return stage in self.rerun


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


def plan(lake: Lake, stages: Sequence[Stage], choice: Choice = Choice()) -> list[Step]:
    """Return one step per stage of the design, in its order, without reading any data."""
    choice.check(stages)
    on = {stage.name: stage for stage in stages}
    remade: dict[str, str] = {}  # artifact: the stage that will make it
    steps = []
    for name in STAGES:
        if name not in on:
            steps.append(Step(name, "off", "off", 'generator = "none"'))
            continue
        steps.append(_step(lake, on[name], choice, remade))
        if steps[-1].action in ("run", "depends"):
            remade |= dict.fromkeys(on[name].makes, name)
    return steps


def status(lake: Lake, stages: Sequence[Stage], verify: bool = False) -> list[Step]:
    """Return how each stage stands; `verify` hashes every file of what is in force."""
    steps = plan(lake, stages)
    if not verify:
        return steps
    makes = {stage.name: stage.makes for stage in stages}
    return [_verified(lake, step, makes.get(step.stage, ())) for step in steps]


def _step(lake: Lake, stage: Stage, choice: Choice, remade: dict[str, str]) -> Step:
    state = lake.state(stage)
    rows = seconds = None
    if state.manifest:
        rows, seconds = state.manifest.outputs[stage.makes[0]].rows, round(state.manifest.seconds, 1)
    cause = next((artifact for artifact in stage.reads if artifact in remade), None)
    kind, action, why = state.kind, "skip" if state.kind == "fresh" else "run", state.why
    if choice.only == stage.name and state.blocked:
        raise UserError(f"--only {stage.name}: its input {', '.join(state.blocked)} is missing. Make that first.")
    if choice.only not in (None, stage.name):
        action, why = "skip", f"only {choice.only} is asked for"
    elif choice.beyond(stage.name):
        action, why = "skip", f"it comes after {choice.to}"
    elif choice.forgets(stage.name):
        action, why = "run", "asked to be made anew"
    elif kind == "fresh" and cause:
        kind, action, why = "stale", "depends", f"stage {remade[cause]} is to make {cause} first"
    return Step(stage.name, kind, action, why, rows, seconds)


def _verified(lake: Lake, step: Step, makes: Sequence[str]) -> Step:
    found = {name: lake.find_alteration(name, full=True) for name in makes if lake.manifest(name)}
    problems = [f"{name}/{problem}" for name, problem in found.items() if problem]
    return replace(step, state="stale", action="run", why="; ".join(problems)) if problems else step
