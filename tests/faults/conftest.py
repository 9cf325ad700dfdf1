"""What all faults share: a Prefect server, the library of disk.c, and the finished world."""

import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from pipeline.processes.child import Child
from tests.faults.disk import Disk
from tests.faults.world import QUIET, World, new_world
from tests.sockets import free_port


@pytest.fixture(scope="session")
def own_prefect(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of runs that start Prefect's server themselves, with a database that only they use."""
    return {"PREFECT_HOME": str(tmp_path_factory.mktemp("own-prefect")), "PREFECT_API_URL": ""}


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of runs that use one server, which is started here."""
    home = str(tmp_path_factory.mktemp("prefect"))
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--analytics-off", "--no-ui", "--no-scheduler"]
    environment = {"PREFECT_HOME": home, "PREFECT_SERVER_DATABASE_TIMEOUT": "60"}
    command = ["env", *(f"{name}={value}" for name, value in (environment | QUIET).items()), sys.executable]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = Child([*command, "-m", "prefect", "server", "start", *options], **quiet)
    try:
        deadline = time.monotonic() + 600
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
                break
            except OSError:
                assert server.process.poll() is None, "Prefect's server ended"
                assert time.monotonic() < deadline, "Prefect's server did not start"
                time.sleep(0.2)
        yield {"PREFECT_HOME": home, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    finally:
        server.end()


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk | None:
    """The library that disturbs calls; None where there is no compiler, or no Linux."""
    if sys.platform != "linux" or not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return None
    return Disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, prefect: dict[str, str], disk: Disk | None) -> World:
    """A sample world and its finished lake, which every fault copies."""
    return new_world(tmp_path_factory.mktemp("world"), prefect, disk)
