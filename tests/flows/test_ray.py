"""Shards made by a real Ray cluster are those of a local run, also where a worker is lost."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.world import Endpoint
from tests.flows.conftest import QUIET, Place
from tests.sockets import free_port

RAY = QUIET | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
BY_RAY = ("--set", "scale.engine=ray", "--set", "scale.workers=3", "--set", "scale.shards_per_task=2")
ASKED_AT_ONCE = 3 * 4
"""Workers, and requests that each has under way."""


def test_a_ray_cluster_makes_the_same_as_a_local_run(place: Place) -> None:
    before = place.contents()
    done = place.edt("run", "--rerun", "generate_items", "--to", "generate_items", *BY_RAY)
    assert done.returncode == 0, done.stderr
    assert "generate_items: 30 shards are made by at most 3 workers of Ray." in done.stderr
    assert place.contents() == before
    assert place.lake.manifest("generated_items").figures["shards_resumed"] == 0


def test_the_plan_tells_the_workers_and_what_each_holds(place: Place) -> None:
    done = place.edt("plan", *BY_RAY, "--set", "scale.address=10.0.0.1:6379", "--set", "scale.gpus_per_worker=0.5")
    assert done.stdout.endswith(
        "Shards are made by Ray (10.0.0.1:6379): at most 3 workers a stage, each with 1 CPUs and, where it loads a "
        "model, 0.5 GPUs.\n"
    )


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lake.root=memory://lake", '[scale] engine = "ray" needs a lake in a folder that all machines see'),
        ("llm.max_run_requests=5", '[scale] engine = "ray": the limits [llm] max_run_requests and max_run_tokens'),
    ],
)
def test_what_ray_cannot_keep_is_refused(place: Place, setting: str, said: str) -> None:
    done = place.edt("plan", "--set", "scale.engine=ray", "--set", setting)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Three Ray nodes of one core each, in processes of their own; the address of the first one."""
    for name, value in (RAY | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}).items():
        monkeypatch.setenv(name, value)
    port = free_port()
    address = f"127.0.0.1:{port}"
    start = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus=1"]
    more = [["--head", f"--port={port}", "--include-dashboard=false"], *[[f"--address={address}"]] * 2]
    nodes = []
    try:
        for options in more:
            nodes.append(subprocess.Popen([*start, *options], stdout=subprocess.DEVNULL))
            wait_for_nodes(address, len(nodes))
        yield address, nodes
    finally:
        for node in nodes:
            kill(node)


def wait_for_nodes(address: str, count: int) -> None:
    """Wait until a cluster has so many nodes."""
    look = f"import ray; ray.init('{address}', logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
    while True:
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
        if done.returncode == 0 and int(done.stdout) >= count:
            return
        time.sleep(0.5)


def kill(node: subprocess.Popen[bytes]) -> None:
    """Kill a node and all that it started."""
    with suppress(psutil.NoSuchProcess):
        every = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
        for process in every:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    node.wait()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["generate_items", "ground"])
def test_a_lost_worker_changes_nothing(
    fresh_place: Place, tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]], stage: str
) -> None:
    address, nodes = cluster
    titles = (fresh_place.folder / "items.csv").read_text().splitlines()[1:40]
    with Endpoint([line.split(",")[2] for line in titles], delay=0.1) as endpoint:
        asking = ("enrich.generator=openai", "llm.model=m", f"openai.base_url={endpoint.url}", "openai.concurrency=4")
        sets = [part for each in asking for part in ("--set", each)]
        fresh_place.edt("run", "--to", "ground", *sets)
        wanted = fresh_place.contents()
        generated = len(endpoint.asked)
        first = "generate_items" if stage == "generate_items" else "ground"
        arguments = ["run", "--rerun", first, "--to", "ground", *BY_RAY, "--set", f"scale.address={address}", *sets]
        if stage == "generate_items":
            arguments.append("--ask-again")
        process = subprocess.Popen(
            fresh_place.command(*arguments), cwd=fresh_place.folder, env=fresh_place.environment()
        )
        artifact = {"generate_items": "generated_items", "ground": "grounded_items"}[stage]
        while len(list((fresh_place.lake.home / artifact).glob(".shards-*/*.parquet"))) < 3:
            assert process.poll() is None
            time.sleep(0.05)
        kill(nodes[-1])
        assert process.wait() == 0
        assert fresh_place.contents() == wanted
        again = len(endpoint.asked) - generated
        distinct = len(set(endpoint.asked[generated:]))
        assert again - distinct <= ASKED_AT_ONCE
