"""A served nightly run: the schedule, and a process that waits for it."""

from collections.abc import Sequence
from pathlib import Path

from data_lake.errors import UserError
from flows.server import prefect_server
from flows.text import log


def serve(config: Path, cron: str, overrides: Sequence[str] = ()) -> None:
    """Run the flow by a schedule until interrupted, one run at a time."""
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from flows.nightly import nightly

    try:
        schedule = Cron(cron, timezone="UTC", slug="nightly")
    except ValueError as error:
        raise UserError(f'--cron "{cron}": {error}. Write five fields, for example "0 2 * * *".') from error
    url = prefect_server()
    log(f"Serving {config} by {cron!r} (UTC). Runs show at {url.removesuffix('/api')}. Ctrl-C ends it.")
    nightly.serve(
        name="nightly",
        schedule=schedule,
        parameters={"config": str(config.resolve()), "set_": list(overrides)},
        limit=1,
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
