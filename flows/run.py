"""A run: what a person asked for, and the settings, lake, models and stages that it needs, made once."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_lake.config import Config
from data_lake.lake import Lake, Manifest, Stage
from flows.models import Models
from flows.selection import StageSelection
from flows.settings import DEFAULT_FILE, Settings, load_settings
from flows.stages import open_lake, stages


class RunRequest(Config):
    """What a person asks for: a settings file, settings that replace those of the file, and stages."""

    config: Path = DEFAULT_FILE
    overrides: tuple[str, ...] = ()
    selection: StageSelection = StageSelection()
    ask_again: bool = False
    """Ask the language model also where the lake holds its reply."""

    @property
    def options(self) -> str:
        """The options, a space before each, by which a command line has the same settings."""
        named = "" if self.config == DEFAULT_FILE else f" --config {shlex.quote(str(self.config))}"
        last = {override.partition("=")[0].strip(): override for override in self.overrides}
        return named + "".join(f" --set {shlex.quote(override)}" for override in last.values())

    def with_setting(self, override: str) -> "RunRequest":
        """Return the request with one more setting that replaces that of the file."""
        return self.model_copy(update={"overrides": (*self.overrides, override)})


@dataclass(frozen=True)
class Run:
    """An opened run: `stages` are those that the settings turn on, in order."""

    request: RunRequest
    settings: Settings
    lake: Lake
    models: Models
    stages: list[Stage]

    @property
    def selection(self) -> StageSelection:
        """The stages that were asked for."""
        return self.request.selection


def make_until(settings: Settings, last: str, tell: Callable[[Manifest], None]) -> Lake:
    """Make what is missing up to a stage, without Prefect, and return the lake; `tell` gets each stage's manifest."""
    lake = open_lake(settings)
    with lake.lock(), Models(settings) as models:
        for stage in stages(settings, models):
            tell(lake.run(stage))
            if stage.name == last:
                break
    return lake


@contextmanager
def open_run(request: RunRequest) -> Iterator[Run]:
    """Read the settings and open what a run needs; its models end with the context."""
    settings = load_settings(request.config, request.overrides)
    engine = None
    if settings.scale.engine == "ray":
        from flows.ray_engine import RayEngine  # another run that is opened there makes the shards

        engine = RayEngine(request, settings)
    with Models(settings, request.ask_again) as models:
        yield Run(request, settings, open_lake(settings, engine), models, stages(settings, models))
