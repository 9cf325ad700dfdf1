"""The Prefect flow: every stage in order, one task each."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from prefect import State, Task, flow, task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.runtime import deployment
from prefect.states import Completed

from data_lake.errors import HeldBack, UserError, disk_failure
from data_lake.lake import Lake, Stage
from data_lake.manifest import Manifest
from data_lake.messages import hide_credentials
from data_lake.progress import progress
from flows.failures import StageFailed, stage_failed
from flows.page import logged, name_run, progress_shown, show_figures, spoken
from flows.plan import is_to_ask_again, plan
from flows.run import Run, RunRequest, open_run
from flows.selection import StageSelection
from flows.settings import DEFAULT_FILE
from flows.stages import StageName
from flows.summary import stage_line
from flows.text import log

SERVED = "EDT_SERVED_SETTINGS"
"""Environment variable with the settings, as JSON, that `edt serve` was given for its runs."""

OURS_TO_SET = frozenset({"openai", "llm", "embed", "data", "lake", "scale"})
"""Sections that tell where keys go, which files are read, which models are loaded, where to write and who computes."""


def not_a_user_error(_task: Task, _run: TaskRun, state: State) -> bool:
    """Say whether trying again can help: it cannot where the input or the settings are wrong."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, UserError)


@task(
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=not_a_user_error,
    task_run_name="{stage.name}",
)
def run_stage(stage: Stage, lake: Lake) -> Manifest | State:
    """Make one stage's artifacts, or skip it when they are current already."""
    with logged():
        try:
            with progress_shown(stage.name):
                manifest = lake.run(stage)
        except UserError:
            raise
        except Exception as error:
            if why := disk_failure(error):
                raise UserError(f"{stage.name}: {why}") from error
            now = TaskRunContext.get()
            assert now is not None
            assert isinstance(now.task.retry_delay_seconds, list)
            logs, number = lake.home / "logs", now.task_run.run_count
            raise stage_failed(stage.name, error, logs, number, now.task.retry_delay_seconds) from error
        show_figures(lake, manifest)
        log(stage_line(manifest))
    if manifest.skipped:
        return Completed(name="Skipped", message=manifest.why, data=manifest)
    return manifest


@task(cache_policy=NO_CACHE, task_run_name="report")
def report(run: Run, failed: tuple[str, str] | None = None) -> Path:
    """Write the page that shows what the lake holds, and link it from the run's page; see `write_report`."""
    from flows.report.write import write_report

    with progress("report"):
        path = write_report(run, failed=failed)
    create_link_artifact(key="report", link=path.as_uri(), link_text=f"Report of {run.settings.dataset}")
    return path


@flow(name="nightly", flow_run_name="{config}")
def nightly(
    config: Path = DEFAULT_FILE,
    only: StageName | None = None,
    from_: StageName | None = None,
    rerun: tuple[StageName, ...] = (),
    set_: tuple[str, ...] = (),
    ask_again: bool = False,
    to: StageName | None = None,
    full: bool = False,
) -> tuple[list[Manifest], int]:
    """Raw logs in; artifacts, a trained model, metrics and recommendations out.

    Args:
        config: The settings file.
        only: Make this stage from the current inputs, and stop.
        from_: Rebuild this stage and all that follow.
        rerun: Rebuild these stages.
        set_: Settings that replace those of the file, each as `section.key=value`.
        ask_again: Ask the language model also where the lake holds its reply.
        to: Stop after this stage.
        full: Rebuild every stage, and train from scratch; replies and vectors of texts that the lake holds are used.

    Returns the records of the stages that ran, and how many were skipped.
    """
    if deployment.id:
        check_given_to_server(set_)
    selection = StageSelection(only, from_, tuple(rerun), to, full)
    with open_run(RunRequest(config=config, overrides=set_, selection=selection, ask_again=ask_again)) as run:
        return make_stages(run)


def check_given_to_server(overrides: Sequence[str]) -> None:
    """Refuse settings of a run that came through Prefect's server, where keys go, what is read and where to write.

    Whoever reaches the server may start a run with any parameters. What `edt serve` was given itself is let through.
    Raises UserError.
    """
    served = json.loads(os.environ.get(SERVED, "[]"))
    for override in overrides:
        if override not in served and override.partition(".")[0].strip() in OURS_TO_SET:
            raise UserError(
                f"{override.partition('=')[0]} was set from outside, through Prefect's server, and says where keys or "
                f"data go. Write it into the settings file, or give it to `edt serve` with --set."
            )


def run_as_flow(run: Run) -> tuple[list[Manifest], int]:
    """Make the stages of an opened run as a run of the flow, as `nightly` would; Prefect learns no credentials."""

    @flow(name=nightly.name, flow_run_name=run.settings.dataset)
    def opened(request: RunRequest) -> tuple[list[Manifest], int]:
        return make_stages(run)

    return opened(run.request.model_copy(update={"overrides": tuple(map(hide_credentials, run.request.overrides))}))


def make_stages(run: Run) -> tuple[list[Manifest], int]:
    """Run a task per selected stage, then write the report; the run is named after what it is to make, then made.

    A stage that fails or is held back ends the run, and the report says so.

    Returns the records of the stages that ran, and how many were skipped.
    """
    ran, skipped = [], 0
    dataset, active = run.settings.dataset, [stage.name for stage in run.stages]
    to_make = [step.stage for step in plan(run) if step.action in ("run", "depends")]
    name_run(f"{dataset}: to make {spoken(to_make, active)}")
    selected = run.selection.apply(run.stages)
    for stage in selected:
        for path in stage.sources:
            if not path.is_file():  # hours before the stage would miss it
                raise UserError(f"Stage '{stage.name}' needs {path}, which is not there. Make or provide it first.")
    with run.lake.lock():
        run.lake.clean(run.stages)
        for stage in run.stages:
            if run.selection.rebuilds(stage.name) or is_to_ask_again(run, stage.name, run.lake.state(stage)):
                run.lake.request_rebuild(stage)
        try:
            for stage in selected:
                result = run_stage(stage, run.lake)
                if isinstance(result, Manifest):
                    ran.append(result)
                else:
                    skipped += 1
        except (UserError, StageFailed) as error:
            if run.settings.report.after_run:
                report_failure(run, stage, error)
            raise
        if run.settings.report.after_run:
            report(run)
    name_run(f"{dataset}: made {spoken([manifest.stage for manifest in ran], active)}")
    return ran, skipped


def report_failure(run: Run, stage: Stage, error: Exception) -> None:
    """Write the report of a run that ends with a stage's error, and log where it is, or why it could not be written."""
    failed = None if isinstance(error, HeldBack) else (stage.name, str(error))  # the lake knows what was held back
    try:
        log(f"Report: {report(run, failed)}")
    except Exception as why:  # the stage's error is the one to raise
        log(f"The report could not be written: {type(why).__name__}: {hide_credentials(str(why))}")
