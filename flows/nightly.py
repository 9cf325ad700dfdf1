"""The Prefect flow: every stage in order, one task each."""

from pathlib import Path

from prefect import State, Task, flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.states import Completed

from data_lake.errors import UserError
from data_lake.lake import Lake, Stage
from data_lake.manifest import Manifest
from flows.engines import Engines
from flows.failures import stage_failed
from flows.plan import Choice
from flows.settings import load_settings
from flows.stages import open_lake, stages
from flows.summary import stage_line
from flows.text import log


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
    """Make one stage's artifacts, or skip it when they are in force already."""
    try:
        manifest = lake.run(stage)
    except UserError:
        raise
    except Exception as error:
        now = TaskRunContext.get()
        assert now is not None
        assert isinstance(now.task.retry_delay_seconds, list)
        logs, number = lake.home / "logs", now.task_run.run_count
        raise stage_failed(stage.name, error, logs, number, now.task.retry_delay_seconds) from error
    create_table_artifact(key=f"{stage.name.replace('_', '-')}-manifest", table=manifest.table())
    log(stage_line(manifest))
    if manifest.skipped:
        return Completed(name="Skipped", message=manifest.why, data=manifest)
    return manifest


@flow(name="nightly")
def nightly(
    config: Path = Path("edt.toml"),
    only: str | None = None,
    from_: str | None = None,
    rerun: tuple[str, ...] = (),
    set_: tuple[str, ...] = (),
    ask_again: bool = False,
    to: str | None = None,
) -> tuple[list[Manifest], int]:
    """Raw logs in; artifacts, a trained model, metrics and recommendations out.

    Args:
        config: The settings file.
        only: Make this stage from the inputs in force, and stop.
        from_: Forget this stage and all that follow.
        rerun: Forget these stages.
        set_: Settings that replace those of the file, each as `section.key=value`.
        ask_again: Ask the language model anew, also where the lake holds its reply.
        to: Stop after this stage.

    Returns the records of the stages that ran, and how many were skipped.
    """
    settings = load_settings(config, set_)
    lake = open_lake(settings)
    ran, skipped = [], 0
    with lake.lock(), Engines(settings, ask_again) as engines:
        on = stages(settings, engines)
        lake.clean(on)
        for stage in Choice(only, from_, rerun, to).take(lake, on):
            made = run_stage(stage, lake)
            if isinstance(made, Manifest):
                ran.append(made)
            else:
                skipped += 1
    return ran, skipped
