"""A served nightly run: the schedule, and a process that waits for it."""

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from data_lake.errors import UserError
from data_lake.messages import hide_credentials
from flows.server import ending_without, prefect_server, secret_file
from flows.settings import load_settings
from flows.text import log
from pipeline.processes.child import child_environment


def serve(config: Path, cron: str, overrides: Sequence[str] = (), replace: bool = False) -> None:
    """Run the flow by a schedule until interrupted, one run at a time, as the deployment `nightly/<dataset>`.

    Raises UserError where that deployment belongs to another settings file, unless `replace`, and for an override with
    a password, which Prefect would keep among the deployment's parameters.
    """
    from prefect.schedules import Cron
    from prefect.settings import get_current_settings
    from prefect.types.entrypoint import EntrypointType

    from flows.nightly import SERVED, nightly

    config, dataset = config.resolve(), load_settings(config, overrides).dataset
    runs = next_runs(cron)
    for override in overrides:
        if hide_credentials(override) != override:
            raise UserError(
                f"--set {hide_credentials(override)} holds a password, which Prefect keeps. Write it into {config}."
            )
    is_ours = get_current_settings().api.url is None
    server = prefect_server()
    url = server.url
    os.environ[SERVED] = json.dumps(list(overrides))
    if not replace:
        _check_owner(f"{nightly.name}/{dataset}", config, url)
    log(
        f"Serving {config} as {nightly.name}/{dataset} by {cron!r} (UTC). Runs show at {url.removesuffix('/api')}"
        f"{f', whose page asks for the line in {secret_file()}' if is_ours else ''}. Ctrl-C ends it."
    )
    log("Next runs: " + ", ".join(f"{each:%a %Y-%m-%d %H:%M} UTC" for each in runs))
    os.environ.update(child_environment())  # the runs are Python programs that Prefect starts with what we have
    watched = ending_without(server) if is_ours else contextlib.nullcontext()
    with watched, tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):  # where Prefect looks for modules
        nightly.serve(
            name=dataset,
            schedule=Cron(cron, timezone="UTC", slug="nightly"),
            parameters={"config": str(config), "set_": list(overrides)},
            limit=1,
            print_starting_message=False,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )


def next_runs(cron: str, count: int = 3) -> list[datetime]:
    """Return when a schedule runs next, in UTC; raise UserError where it is none, or never runs."""
    from prefect.server.schemas.schedules import CronSchedule

    try:
        if len(cron.split()) != 5:
            raise ValueError("it has not five fields")
        runs = asyncio.run(CronSchedule(cron=cron, timezone="UTC").get_dates(count))
    except ValueError as error:  # of croniter, too, where no such day comes
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(f'--cron "{cron}": {reason}. Write five fields, for example "0 2 * * *".') from error
    return [*runs]


def _check_owner(deployment: str, config: Path, url: str) -> None:
    """Raise UserError where the server has a deployment of that name for other settings than `config`."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            owner = client.read_deployment_by_name(deployment).parameters.get("config")
        except ObjectNotFound:
            return
    if owner != str(config):
        raise UserError(
            f"{deployment} on {url} is the deployment of {owner}: "
            f"give the dataset in {config} another name, or put it in that one's place with --replace."
        )
