"""One run from the command line: compare first, start the flow only where something is to be made."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from data_lake.errors import UserError
from flows.engines import Engines
from flows.failures import StageFailed
from flows.plan import Choice, plan
from flows.server import prefect_server
from flows.settings import load_settings
from flows.stages import open_lake, stages
from flows.summary import summary
from flows.text import log


class RunFailed(Exception):
    """A run that began and could not be finished, for a reason that the message tells in full."""


def run(config: Path, choice: Choice, overrides: Sequence[str] = (), ask_again: bool = False) -> str:
    """Make what is stale and return the summary for the person who asked."""
    started = time.monotonic()
    settings = load_settings(config, overrides)
    lake = open_lake(settings)
    on = stages(settings, Engines(settings))
    to_make = [step for step in plan(lake, on, choice) if step.action == "run"]
    if not to_make:
        what = f"{choice.only} is" if choice.only else f"every stage{f' up to {choice.to}' if choice.to else ''} is"
        return f"Nothing to do: {what} fresh ({time.monotonic() - started:.1f} s). --rerun STAGE makes one anew."
    for stage in on:
        missing = [path for path in stage.sources if not path.is_file()]
        if missing and choice.only in (None, stage.name):
            raise UserError(f"{missing[0]}: no such file. Correct [data] in {config}.")
    log("Stale: " + ", ".join(f"{step.stage} ({step.why})" if step is to_make[0] else step.stage for step in to_make))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the server gets every line
    try:
        with lake.lock():
            prefect_server("--no-scheduler", "--no-ui")
            from flows.nightly import nightly

            ran, skipped = nightly(
                config, choice.only, choice.from_, choice.rerun, tuple(overrides), ask_again, choice.to
            )
    except (UserError, StageFailed) as error:
        raise RunFailed(str(error)) from error
    return summary(lake, ran, skipped, time.monotonic() - started, config)
