import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from flows.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_worker_makes_the_run_that_the_deployment_file_schedules(place, tmp_path):
    """The commands of README, in a folder with an edt.toml; the run remakes one stage that is missing."""
    for name in ("prefect.yaml", "flows"):
        (place.folder / name).symlink_to(ROOT / name)
    shutil.rmtree(place.lake.home / "recommendations")
    place.python("-m", "prefect", "work-pool", "create", "edt", "--type", "process")
    deployed = place.python("-m", "prefect", "deploy", "--all", "--no-prompt")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    url = place.environment()["PREFECT_API_URL"]
    (deployment,) = ask(url, "/deployments/filter")
    (schedule,) = deployment["schedules"]
    assert (schedule["active"], schedule["schedule"]["cron"]) == (True, "0 2 * * *")
    assert deployment["global_concurrency_limit"]["limit"] == 1

    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "edt"]
    environment = place.environment() | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        run = place.python("-m", "prefect", "deployment", "run", "nightly/nightly")
        assert run.returncode == 0, run.stdout
        wait_for(
            lambda: [
                each for each in ask(url, "/flow_runs/filter")
                if each["deployment_id"] == deployment["id"] and each["state_type"] == "COMPLETED"
            ],
            240, tmp_path / "log",
        )  # fmt: skip
    finally:
        worker.send_signal(signal.SIGINT)
        worker.wait(60)
    assert place.lake.manifest("recommendations") is not None
    assert "recommend " in (tmp_path / "log").read_text()
