"""Which stages a person asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_lake.errors import UserError, nearest
from data_lake.lake import Stage
from flows.stages import SPECS, STAGES


@dataclass(frozen=True)
class StageSelection:
    """Which stages to rebuild although they are fresh, all of them (`full`), the only one to make, or the last one."""

    only: str | None = None
    from_: str | None = None
    rerun: tuple[str, ...] = ()
    to: str | None = None
    full: bool = False

    def check(self, active: Sequence[Stage]) -> None:
        """Raise `UserError` for a name that is no stage, is off, or for choices that contradict each other."""
        if sum(map(bool, (self.only, self.from_, self.rerun, self.full))) > 1:
            raise UserError("--only, --from, --rerun and --full exclude each other. Give one of them.")
        if self.only and self.to:
            raise UserError("--only and --to exclude each other. Give one of them.")
        names = [stage.name for stage in active]
        for name in (self.only, self.from_, *self.rerun, self.to):
            if name and name not in STAGES:
                raise UserError(f"{name!r} is no stage.{nearest(name, STAGES)} The stages are {', '.join(STAGES)}.")
            if name and name not in names:
                section = SPECS[STAGES.index(name)].section
                raise UserError(f"Stage {name} is off with these settings. Set [{section}] generator to turn it on.")
        for name in (self.from_, *self.rerun):
            if name and self.is_beyond(name):
                raise UserError(f"Stage {name} comes after --to {self.to}. Name a later stage there.")

    def apply(self, active: Sequence[Stage]) -> list[Stage]:
        """Return the stages to go through, in order."""
        self.check(active)
        return [stage for stage in active if self.only in (None, stage.name) and not self.is_beyond(stage.name)]

    def is_beyond(self, stage: str) -> bool:
        """Say whether the stage comes after the last one to make."""
        return self.to is not None and STAGES.index(stage) > STAGES.index(self.to)

    def rebuilds(self, stage: str) -> bool:
        """Say whether the stage is rebuilt even where its artifacts are fresh."""
        if self.is_beyond(stage):
            return False
        if self.from_:
            return STAGES.index(stage) >= STAGES.index(self.from_)
        return self.full or stage in self.rerun
