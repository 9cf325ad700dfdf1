"""A served nightly run: the schedule, and a Prefect server of its own where none is named."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_lake.errors import UserError
from flows.child import Child
from flows.run import check_server
from flows.text import note

HOST, PORT = "127.0.0.1", 4200
START_SECONDS = 120


def serve(config: Path, cron: str, overrides: Sequence[str] = ()) -> None:
    """Run the flow by a schedule until interrupted, one run at a time."""
    with _server() as url:
        from prefect.schedules import Cron
        from prefect.types.entrypoint import EntrypointType

        from flows.nightly import nightly

        try:
            schedule = Cron(cron, timezone="UTC", slug="nightly")
        except ValueError as error:
            raise UserError(f'--cron "{cron}": {error}. Write five fields, for example "0 2 * * *".') from error
        note(f"Serving {config} by {cron!r} (UTC). Runs show at {url.removesuffix('/api')}. Ctrl-C ends it.")
        nightly.serve(
            name="nightly",
            schedule=schedule,
            parameters={"config": str(config.resolve()), "set_": list(overrides)},
            limit=1,
            print_starting_message=False,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )


@contextmanager
def _server() -> Iterator[str]:
    """Give the address of the Prefect server to use: that of PREFECT_API_URL, else one started here on loopback."""
    if url := os.environ.get("PREFECT_API_URL"):
        check_server()
        yield url
        return
    port = _free_port()
    os.environ["PREFECT_API_URL"] = url = f"http://{HOST}:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    child = Child(command, stdout=subprocess.DEVNULL)
    try:
        _wait(child, f"{url}/health")
        yield url
    finally:
        del os.environ["PREFECT_API_URL"]
        child.end()


def _wait(child: Child, address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    raise RuntimeError(f"the Prefect server did not answer at {address} within {START_SECONDS} seconds")


def _free_port() -> int:
    """Return Prefect's own port, or any free one where it is taken."""
    for port in (PORT, 0):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError(f"no free port on {HOST}")
