"""A small world with a finished lake, copies of it in which some stages are still to be made, and what a run left."""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from data_lake.files import TEMPORARY
from data_lake.keyed_cache import DIGEST
from data_lake.manifest import MANIFEST, Manifest, hash_file, load
from tests.faults.disk import Disk
from tests.pipeline.stub_endpoint import StubEndpoint, completion

CONCURRENCY = 4
"""Requests under way at a time."""

SETTINGS = f"""
dataset = "tiny"
[data]
interactions = "sample/interactions.csv"
items = "sample/items.csv"
[enrich]
generator = "openai"
noise_filter = false
rows_per_shard = 12
probes = 10
[profile]
rows_per_shard = 12
[llm]
model = "m"
max_failed = 0
[openai]
base_url = "http://127.0.0.1:1/v1"
concurrency = {CONCURRENCY}
retries = 2
[train]
threads = 1
[train.network]
hidden = 16
[train.pretrain]
epochs = 2
[train.finetune]
epochs = 1
[evaluate]
protocols = ["full"]
resamples = 20
[recommend]
top = 3
[report]
after_run = false
"""

QUIET = {
    "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "HF_HUB_OFFLINE": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}  # fmt: skip
HANGS = 600
"""Seconds after which a run is said to hang, however busy the machine is."""

NOT_MADE = re.compile(r"memory/|logs/|\.lock$|\.sources\.json$")
"""What stages do not make, and two undisturbed runs may leave differently."""


class Endpoint(StubEndpoint):
    """Answers each question as its words decide, with titles of the catalogue or a profile of words of its own."""

    def __init__(self, titles: list[str], delay: float = 0.02) -> None:
        super().__init__(delay)
        self.script = Answers(titles)


class Answers:
    """Every prompt's answer, except while it `fails`: then what `fails` says."""

    def __init__(self, titles: list[str]) -> None:
        self.titles, self.told, self.fails = titles, [], lambda number: None
        self.number = 0

    def get(self, prompt: str, usual: object = None) -> tuple[int, dict[str, str], bytes]:
        self.number += 1
        failure = self.fails(self.number)
        if failure is not None:
            return failure
        self.told.append(prompt)
        return 200, {}, completion(self.text(prompt))

    def text(self, prompt: str) -> str:
        """Return the answer to a prompt; no two prompts have the same."""
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        if '"items"' in prompt or "Items that the customer chose" in prompt:
            first = int(digest, 16) % len(self.titles)
            return json.dumps({"items": [*(self.titles * 2)[first : first + 9], digest[:12]]})
        return json.dumps({"profile": " ".join(digest[i : i + 6] for i in range(0, 60, 6))})


@dataclass
class Ended:
    """A run of `edt` that is over."""

    code: int
    err: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@dataclass
class Place:
    """A folder with raw files, settings, a lake, and the endpoint that its runs ask."""

    folder: Path
    endpoint: Endpoint
    prefect: dict[str, str]
    """Environment variables that say which Prefect server to use."""

    @property
    def home(self) -> Path:
        return self.folder / "data_lake" / "store" / "tiny"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start the command line in a process group of its own; what it says to stderr goes to a file."""
        known = os.environ | QUIET | {"PYTHONPATH": os.pathsep.join(sys.path)} | self.prefect | environment
        with (self.folder / "err").open("wb") as err:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *(arguments or ("run",))], cwd=self.folder, env=known,
                stdout=subprocess.DEVNULL, stderr=err, process_group=0,
            )  # fmt: skip

    def end(self, process: subprocess.Popen[bytes], started: float) -> Ended:
        """Wait for a run's end. Raises TimeoutExpired, and ends the run, where it hangs."""
        try:
            code = process.wait(HANGS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Ended(code, (self.folder / "err").read_text(errors="replace"), time.monotonic() - started)

    def run(self, *arguments: str, **environment: str) -> Ended:
        """Run the command line to its end."""
        started = time.monotonic()
        return self.end(self.start(*arguments, **environment), started)

    def tree(self) -> dict[str, str]:
        """Return every file and link that stages made, or left over, with the hash or the target."""
        found = {}
        for path in self.home.rglob("*"):
            name = path.relative_to(self.home).as_posix()
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.name == MANIFEST:
                found[name] = _deterministic(load(path.parent))
            elif path.is_file() and (not NOT_MADE.match(name) or path.name.startswith(TEMPORARY)):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def held(self) -> set[str]:
        """Return the answers that the lake holds, damaged parts left out."""
        parts = (self.home / "memory" / "replies").glob("[!.]*.parquet")
        sound = [path for path in parts if path.stem.partition("-")[2] == hash_file(path)[:DIGEST]]
        return {text for path in sound for text in pq.read_table(path)["text"].to_pylist()}


def _deterministic(manifest: Manifest | None) -> str:
    """Return what the manifests of two undisturbed runs have in common."""
    if manifest is None:
        return "no manifest"
    contents = {name: output.content for name, output in manifest.outputs.items()}
    return f"{manifest.stage} {manifest.fingerprint} {manifest.inputs} {contents}"


@dataclass
class World:
    """A finished lake: what its files are, and how many calls that write each of its stages took."""

    folder: Path
    prefect: dict[str, str]
    titles: list[str]
    tree: dict[str, str] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def place(self, folder: Path, prefect: dict[str, str] | None = None) -> Place:
        """Return a copy of the world with an endpoint of its own, which does not listen yet."""
        shutil.copytree(self.folder, folder, symlinks=True)
        endpoint = Endpoint(self.titles)
        settings = (folder / "edt.toml").read_text()
        (folder / "edt.toml").write_text(re.sub(r'base_url = ".*"', f'base_url = "{endpoint.url}"', settings))
        return Place(folder, endpoint, self.prefect if prefect is None else prefect)


def new_world(folder: Path, prefect: dict[str, str], disk: Disk | None) -> World:
    """Make a sample world and everything of it."""
    world = folder / "world"
    world.mkdir()
    command = [sys.executable, "-m", "flows.cli", "sample", "--users", "40", "--set", "items=30"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, cwd=world, env=environment, check=True, capture_output=True)
    (world / "edt.toml").write_text(SETTINGS)
    titles = [row["title"] for row in csv.DictReader((world / "sample" / "items.csv").open()) if row["title"]]
    made = World(world, prefect, titles)
    place = made.place(folder / "place")
    with place.endpoint:
        started, before = time.monotonic(), 0
        process = place.start(**(disk.preload(place.home, "count") if disk else {}))
        while process.poll() is None:
            time.sleep(0.02)
            for stage in re.findall(r"^(\w+) +[0-9.]+ s  ", (place.folder / "err").read_text(), re.MULTILINE):
                if disk and stage not in made.writes:
                    now = disk.calls()
                    made.writes[stage], before = now - before, now
        ended = place.end(process, started)
    assert ended.code == 0, ended.err
    shutil.rmtree(world)
    place.folder.rename(world)
    made.tree, made.seconds = Place(world, place.endpoint, prefect).tree(), ended.seconds
    return made
