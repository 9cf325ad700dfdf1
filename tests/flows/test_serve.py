import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from data_lake.errors import UserError
from flows.nightly import nightly
from flows.serve import next_runs, serve
from flows.server import check
from tests.flows.by_default import ON_BY_DEFAULT
from tests.sockets import listening

ROOT = Path(__file__).resolve().parents[2]


def ask(url: str, path: str, secret: str = "", **conditions) -> list[dict]:
    """Return what the server tells; nothing where it does not answer in time, as a busy one may not."""
    headers = {"Content-Type": "application/json"} | authorization(secret)
    request = urllib.request.Request(url + path, json.dumps(conditions).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)
    except OSError:
        return []


def authorization(secret: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"} if secret else {}


def finished_runs(url: str, secret: str = "", **conditions) -> list[dict]:
    return [run for run in ask(url, "/flow_runs/filter", secret, **conditions) if run["state_type"] == "COMPLETED"]


def deployments(url: str, name: str, secret: str = "") -> list[dict]:
    return ask(url, "/deployments/filter", secret, deployments={"name": {"any_": [name]}})


def wait_for(what, seconds: float, log: Path):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    return found


@contextmanager
def running(command: list[str], cwd: Path, environment: dict[str, str], log: Path):
    """Run a command beside the test, and end it as Ctrl-C does."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_a_scheduled_run_finishes_on_the_server_that_serve_starts(place, namesakes, tmp_path):
    """`edt serve` with a schedule of every minute, in a folder where packages of the user's have the names of ours.

    The run remakes one stage that is missing.
    """
    shutil.rmtree(place.lake.home / "recommendations")
    environment = place.environment() | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    }
    for name in [name for name in environment if name.startswith(("PREFECT_API", "PREFECT_SERVER_DATABASE"))]:
        del environment[name]
    command = [sys.executable, "-P", "-m", "flows.cli", "serve", "--config", str(place.config), "--cron", "* * * * *"]
    log = tmp_path / "log"
    with running(command, namesakes, environment, log) as process:
        url = wait_for(lambda: served_at(log), 120, log)
        file = tmp_path / "prefect" / "edt-secret"
        assert f"whose page asks for the line in {file}" in log.read_text()
        assert file.stat().st_mode & 0o777 == 0o600
        secret = file.read_text()
        assert refused(url)
        run = wait_for(lambda: finished_runs(url, secret), 200, log)[0]
        assert run["auto_scheduled"]
        assert run["parameters"]["config"] == str(place.config)
        assert place.lake.manifest("recommendations") is not None
        tasks = wait_for(lambda: ask(url, "/task_runs/filter", secret), 60, log)
        states = {task["name"]: task["state_name"] for task in tasks}
        assert states.pop("recommend") == "Completed"
        assert set(states) == set(ON_BY_DEFAULT) - {"recommend"}
        assert set(states.values()) == {"Skipped"}
        assert [each["name"] for each in wait_for(lambda: deployments(url, "tiny", secret), 60, log)] == ["tiny"]
        settings = server_settings(url, secret)
        assert settings["database"]["timeout"] == 60
        assert settings["ui"]["api_url"] == url
        assert settings["api"]["cors_allowed_origins"] == url.removesuffix("/api")
        assert listening(process.pid) == {"127.0.0.1"}
        server_of(process).kill()
        assert process.wait(60) == 1
        assert "error: Prefect's own server ended in the middle of the run (SIGKILL)." in log.read_text()


@pytest.mark.slow
def test_servers_that_are_started_at_once_are_two(tmp_path):
    start = "from flows.server import prefect_server; print(prefect_server('--no-ui').url, flush=True); input()"
    named = ("PREFECT_API", "PREFECT_SERVER_DATABASE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(named)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", start], cwd=ROOT, env=environment | {"PREFECT_HOME": str(tmp_path / name)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in ("one", "other")
    ]  # fmt: skip
    try:
        one, other = (process.stdout.readline() for process in started)
        assert one.startswith("http://127.0.0.1:")
        assert other.startswith("http://127.0.0.1:")
        assert one != other
    finally:
        for process in started:
            process.communicate("\n", timeout=300)


def server_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    below = psutil.Process(process.pid).children(recursive=True)
    return next(each for each in below if each.cmdline()[1:4] == ["-m", "prefect", "server"])


def served_at(log: Path) -> str | None:
    for word in log.read_text().split():
        if word.startswith("http://127.0.0.1:"):
            return word.rstrip(".,") + "/api"
    return None


def refused(url: str) -> bool:
    """Whether the server lets nobody in who has no secret."""
    try:
        urllib.request.urlopen(f"{url}/admin/settings", timeout=60).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    return False


def server_settings(url: str, secret: str) -> dict:
    request = urllib.request.Request(f"{url}/admin/settings", headers=authorization(secret))
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)["server"]


def test_a_deployment_of_other_settings_is_replaced_only_when_told(place, tmp_path):
    url = place.environment()["PREFECT_API_URL"]
    nightly.to_deployment(name="shared", parameters={"config": "/elsewhere/edt.toml"}).apply()
    options = ("serve", "--set", "dataset=shared")
    refused = place.edt(*options)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"error: nightly/shared on {url} is the deployment of /elsewhere/edt.toml: give the dataset in "
        f"{place.config} another name, or put it in that one's place with --replace."
    ]

    def owner() -> str:
        return next((each["parameters"]["config"] for each in deployments(url, "shared")), "")

    log = tmp_path / "log"
    for command in (place.command(*options, "--replace"), place.command(*options)):
        with running(command, place.folder, place.environment(), log):
            wait_for(lambda: owner() == str(place.config) and "Serving" in log.read_text(), 60, log)


@pytest.mark.slow
def test_a_worker_makes_the_run_that_the_deployment_file_schedules(place, tmp_path):
    """The commands of docs/operations.md, in a folder with an edt.toml; the run remakes one stage that is missing."""
    for name in ("prefect.yaml", "flows"):
        (place.folder / name).symlink_to(ROOT / name)
    shutil.rmtree(place.lake.home / "recommendations")
    place.python("-m", "prefect", "work-pool", "create", "edt", "--type", "process")
    deployed = place.python("-m", "prefect", "deploy", "--all", "--no-prompt")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    url, log = place.environment()["PREFECT_API_URL"], tmp_path / "log"
    log.touch()
    (deployment,) = wait_for(lambda: deployments(url, "shop"), 60, log)
    (schedule,) = deployment["schedules"]
    assert (schedule["active"], schedule["schedule"]["cron"]) == (True, "0 2 * * *")
    assert deployment["global_concurrency_limit"]["limit"] == 1

    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "edt"]
    with running(command, tmp_path, place.environment() | {"PREFECT_WORKER_QUERY_SECONDS": "1"}, log):
        run = place.python("-m", "prefect", "deployment", "run", "nightly/shop")
        assert run.returncode == 0, run.stdout
        wait_for(lambda: finished_runs(url, deployments={"id": {"any_": [deployment["id"]]}}), 240, log)
    assert place.lake.manifest("recommendations") is not None
    assert "recommend " in log.read_text()


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        ("0 0 2 * * *", "it has not five fields"),
        ("@daily", "it has not five fields"),
        ("nonsense", "it has not five fields"),
        ("61 2 * * *", "Invalid cron string"),
        ("0 2 31 2 *", "failed to find next date"),
    ],
)
def test_a_schedule_that_is_none_or_never_comes_is_refused(cron, reason):
    with pytest.raises(UserError, match=rf'--cron "{re.escape(cron)}": .*{reason}.*Write five fields'):
        next_runs(cron)


def test_the_next_runs_follow_each_other_by_the_schedule():
    first, *others = next_runs("30 2 * * *")
    assert (first.hour, first.minute, first.utcoffset()) == (2, 30, timedelta(0))
    assert others == [first + timedelta(days=1), first + timedelta(days=2)]


def test_a_service_that_is_no_prefect_server_is_named(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        with pytest.raises(UserError, match="what answers there is no Prefect server"):
            check(f"http://127.0.0.1:{server.server_address[1]}/api")
    finally:
        server.shutdown()
        server.server_close()


def test_a_damaged_database_of_the_server_is_named_in_a_sentence(tmp_path):
    (tmp_path / "prefect.db").write_bytes(b"no database" * 1000)
    start = "from flows.server import prefect_server; prefect_server('--no-ui')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, env=environment | {"PREFECT_HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == (
        "data_lake.errors.UserError: Prefect's own server did not start: sqlalchemy.exc.DatabaseError: "
        f"(sqlite3.DatabaseError) file is not a database. Its database is {tmp_path / 'prefect.db'}: move it away if "
        "it is damaged, or let PREFECT_API_URL name a server that runs."
    )
    assert (tmp_path / "prefect.db").read_bytes() == b"no database" * 1000


def test_a_password_in_an_override_is_refused_before_prefect_learns_it(place) -> None:
    with pytest.raises(UserError, match=r"--set lake.root=s3://\S*@host/lake holds a password") as refused:
        serve(place.config, "0 2 * * *", ("lake.root=s3://me:planted@host/lake",))
    assert "planted" not in str(refused.value)
