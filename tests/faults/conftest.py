"""What all faults share: a Prefect server, the library of disk.c, the finished world, and the table at the end."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest

from pipeline.processes.child import Child
from tests.faults.disk import Disk
from tests.faults.faults import OUTCOMES, STOPPED
from tests.faults.world import QUIET, World, new_world

Tally = defaultdict[str, Counter[str]]
TALLY = pytest.StashKey[Tally]()


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Tally:
    """How the faults of each kind went; the table of it is shown at the end."""
    return pytestconfig.stash.setdefault(TALLY, defaultdict(Counter))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if found := config.stash.get(TALLY, None):
        terminalreporter.section("faults")
        columns = (STOPPED, *OUTCOMES)
        terminalreporter.write_line(f"{'kind':<20}{'times':>10}" + "".join(f"{name:>10}" for name in columns))
        for kind, counts in [*sorted(found.items()), ("all", sum(found.values(), Counter()))]:
            times = sum(counts[name] for name in OUTCOMES)
            terminalreporter.write_line(f"{kind:<20}{times:>10}" + "".join(f"{counts[name]:>10}" for name in columns))


@pytest.fixture(scope="session")
def own_prefect(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of runs that start Prefect's server themselves, with a database that only they use."""
    return {"PREFECT_HOME": str(tmp_path_factory.mktemp("own-prefect")), "PREFECT_API_URL": ""}


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of runs that use one server, which is started here."""
    home = str(tmp_path_factory.mktemp("prefect"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
