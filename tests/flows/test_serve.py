import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import yaml

from flows.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url: str, path: str) -> list[dict]:
    request = urllib.request.Request(url + path, b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def test_a_scheduled_run_finishes_on_the_server_that_serve_starts(place, tmp_path):
    """`edt serve` with a schedule of every minute; the run remakes one stage that is missing."""
    shutil.rmtree(place.lake.home / "recommendations")
    environment = place.environment() | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    }
    for name in [name for name in environment if name.startswith("PREFECT_API")]:
        del environment[name]
    with (tmp_path / "log").open("wb") as log:
        serve = subprocess.Popen(
            place.command("serve", "--cron", "* * * * *"), cwd=place.folder, env=environment, stdout=log, stderr=log
        )
    try:
        url = wait_for(lambda: served_at(tmp_path / "log"), 120, tmp_path / "log")
        runs = wait_for(
            lambda: [r for r in ask(url, "/flow_runs/filter") if r["state_type"] == "COMPLETED"], 200, tmp_path / "log"
        )
        assert runs[0]["auto_scheduled"]
        assert runs[0]["parameters"]["config"] == str(place.config)
        assert place.lake.manifest("recommendations") is not None
        states = {task["name"]: task["state_name"] for task in ask(url, "/task_runs/filter")}
        assert states.pop("recommend") == "Completed"
        assert set(states) == set(STAGES) - {"recommend"}
        assert set(states.values()) == {"Skipped"}
    finally:
        serve.send_signal(signal.SIGINT)
        serve.wait(60)
    assert not answers(url)


def served_at(log: Path) -> str | None:
    for word in log.read_text().split():
        if word.startswith("http://127.0.0.1:"):
            return word.rstrip(".") + "/api"
    return None


def answers(url: str) -> bool:
    try:
        ask(url, "/flow_runs/filter")
    except OSError:
        return False
    return True


def wait_for(what, seconds: float, log: Path):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    return found


def test_the_deployment_file_schedules_the_flow_without_a_pull_step():
    from flows.nightly import nightly

    file = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    (deployment,) = file["deployments"]
    path, _, flow = deployment["entrypoint"].partition(":")
    assert (ROOT / path).is_file()
    assert flow == nightly.fn.__name__
    assert set(deployment["parameters"]) <= set(nightly.parameters.properties)
    assert deployment["schedules"][0]["cron"] == "0 2 * * *"
    assert "pull" not in file
    assert "pull" not in deployment
