"""One Prefect server for all tests here, and one finished run that tests copy."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from data_lake.lake import Lake
from data_lake.progress_display import STILL
from flows.nightly import nightly
from flows.run import Run, RunRequest, open_run
from flows.selection import StageSelection
from flows.server import DATABASE
from pipeline.sample_world.simulate import SimulateConfig, simulate, write
from tests.flows.by_default import ON_BY_DEFAULT

QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "HF_HUB_OFFLINE": "1"}

SETTINGS = """
dataset = "tiny"
[data]
interactions = "interactions.csv"
items = "items.csv"
[enrich]
generator = "retrieval"
noise_filter = false
rows_per_shard = 2
probes = 10
[train]
threads = 1
[train.network]
hidden = 16
[train.pretrain]
epochs = 3
[train.finetune]
epochs = 1
[evaluate]
protocols = ["full", "sampled-100"]
resamples = 20
[report]
after_run = false
"""


@dataclass(frozen=True)
class Place:
    """A folder with two raw files, settings and a lake."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "edt.toml"

    @property
    def lake(self) -> Lake:
        return Lake(self.folder / "data_lake" / "store", "tiny")

    @contextmanager
    def open(self, *overrides: str, ask_again: bool = False, **selection: object) -> Iterator[Run]:
        """Open a run without starting it."""
        chosen = StageSelection(**selection)
        request = RunRequest(config=self.config, overrides=overrides, selection=chosen, ask_again=ask_again)
        with open_run(request) as run:
            yield run

    def run(self, **choice: object) -> list[str]:
        """Run the flow and return the names of the stages that it did not skip."""
        ran, _ = nightly(self.config, **choice)
        return [manifest.stage for manifest in ran]

    def edt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return self.python("-m", "flows.cli", *arguments)

    def python(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run Python to its end. Lines that a busy machine brings, of work that takes minutes, are left out."""
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=cwd or self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        lines = done.stderr.splitlines(keepends=True)
        done.stderr = "".join(line for line in lines if not line.startswith(STILL))
        return done

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flows.cli", *arguments]

    def environment(self) -> dict[str, str]:
        """Return the environment of a child process: our packages, and the tests' Prefect server."""
        return (
            os.environ | QUIET | {"PYTHONPATH": os.pathsep.join(sys.path), "PREFECT_API_URL": PREFECT_API_URL.value()}
        )

    def contents(self) -> dict[str, str]:
        """Return the content hash of each current artifact."""
        folders = sorted(self.lake.home.glob("*/current"))
        return {
            path.parent.name: self.lake.manifest(path.parent.name).outputs[path.parent.name].content for path in folders
        }


def _new_place(folder: Path, world: SimulateConfig, settings: str = SETTINGS) -> Place:
    folder.mkdir(parents=True, exist_ok=True)
    write(simulate(world), folder)
    (folder / "edt.toml").write_text(settings)
    return Place(folder)


@pytest.fixture(scope="session", autouse=True)
def _prefect_server() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (QUIET | DATABASE).items():
            patch.setenv(name, value)
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        with prefect_test_harness(server_startup_timeout=900):
            yield


@pytest.fixture(scope="session")
def new_place() -> Callable[[Path, SimulateConfig], Place]:
    """Make a folder with a simulated world and settings for it."""
    return _new_place


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A world of 50 users after a whole run. Copy it before changing it."""
    place = _new_place(tmp_path_factory.mktemp("finished"), SimulateConfig(users=50, items=60))
    assert place.run(set_=("report.after_run=true",)) == list(ON_BY_DEFAULT)
    return place


@pytest.fixture
def place(finished: Place, tmp_path: Path) -> Place:
    """A copy of the finished run."""
    folder = tmp_path / "place"
    shutil.copytree(finished.folder, folder, symlinks=True)
    return Place(folder)


@pytest.fixture
def fresh_place(finished: Place, tmp_path: Path) -> Place:
    """The same inputs and settings without any artifact; only the vectors of texts are remembered."""
    folder = tmp_path / "fresh"
    shutil.copytree(finished.folder, folder, ignore=shutil.ignore_patterns("data_lake"))
    there = Place(folder)
    shutil.copytree(finished.lake.home / "memory" / "vectors", there.lake.home / "memory" / "vectors")
    return there
