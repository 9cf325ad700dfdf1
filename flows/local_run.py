"""A run from the command line: compare first, start the flow only where something is to be made."""

import os
import time
from contextlib import suppress

from data_lake.errors import UserError
from data_lake.progress import progress
from flows.failures import StageFailed
from flows.plan import plan
from flows.run import Run, RunRequest, open_run
from flows.server import ending_without, prefect_server
from flows.summary import report_path, summary
from flows.text import log


class RunFailed(Exception):
    """A run that began and could not be finished, for a reason that the message tells in full."""


def run_locally(request: RunRequest) -> str:
    """Make what is stale and return the summary for the person who asked."""
    started = time.monotonic()
    with open_run(request) as run:
        with progress("plan"):
            to_make = [step for step in plan(run) if step.action == "run"]
        if not to_make:
            _remove_left_over(run)
            path = report_path(run.lake)
            if run.settings.report.after_run and not path.exists():
                _write_report(run)
            told = f"{_nothing_to_do(run)} ({time.monotonic() - started:.1f} s). --rerun STAGE rebuilds one."
            return told + (f"\nReport: {path}" if path.exists() else "")
        _check_sources(run)
        first, *others = to_make
        log("Stale: " + ", ".join([f"{first.stage} ({first.why})", *(step.stage for step in others)]))
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the server gets every line
        import httpx  # slow to load, as Prefect is

        try:
            with run.lake.lock():
                with progress("starting Prefect"):
                    server = prefect_server("--no-scheduler", "--no-ui")
                    from flows.nightly import run_as_flow

                with ending_without(server):
                    ran, skipped = run_as_flow(run)
        except (UserError, StageFailed) as error:
            raise RunFailed(str(error)) from error
        except httpx.HTTPError as error:  # a stage's own are none of these
            said = str(error).partition("\n")[0] or type(error).__name__
            raise RunFailed(
                f"Prefect's server does not answer as it should ({said}). What is finished is kept: run again, and it "
                "goes on from there."
            ) from error
        return summary(run, ran, skipped, time.monotonic() - started)


def _nothing_to_do(run: Run) -> str:
    only, to = run.selection.only, run.selection.to
    what = f"{only} is" if only else f"every stage{f' up to {to}' if to else ''} is"
    return f"Nothing to do: {what} fresh"


def _remove_left_over(run: Run) -> None:
    """Remove what a run left that was killed after its last artifact was published."""
    if run.lake.leftovers(run.stages):
        with suppress(UserError):  # another run is writing, or the lake can only be read
            run.lake.clean(run.stages)


def _write_report(run: Run) -> None:
    from flows.report.write import write_report

    with progress("report"), suppress(OSError):  # the lake can only be read
        write_report(run)


def _check_sources(run: Run) -> None:
    for stage in run.stages:
        missing = [path for path in stage.sources if not path.is_file()]
        if missing and run.selection.only in (None, stage.name):
            raise UserError(f"{missing[0]}: no such file. Correct [data] in {run.request.config}.")
