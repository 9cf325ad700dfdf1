"""An alert on failure as docs/alerts.md makes it: Prefect's real server, a run that fails, a web hook on loopback."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue

import httpx
import pytest

from flows.server import DATABASE
from pipeline.sample_world.simulate import SimulateConfig
from tests.flows.test_serve import running, wait_for
from tests.sockets import free_port

PAGE = Path(__file__).resolve().parents[2] / "docs" / "alerts.md"


@pytest.fixture
def hook():
    """An address on loopback, and what is posted there."""
    posted = Queue()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/alert", posted
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(tmp_path):
    """The environment that names a Prefect server of the test's own, with all its services."""
    port = free_port()
    named = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    ours = {"PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": os.pathsep.join(sys.path)}
    log, address = tmp_path / "server.log", f"http://127.0.0.1:{port}"
    environment = named | ours | DATABASE | {"PREFECT_UI_URL": address}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui", "--analytics-off"]
    with running(command, tmp_path, environment, log):
        wait_for(lambda: answers(f"{address}/api"), 300, log)
        yield environment | {"PREFECT_API_URL": f"{address}/api"}


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=10).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_a_run_that_fails_posts_its_name_and_its_reason_to_the_web_hook(new_place, tmp_path, server, hook):
    address, posted = hook
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-c", snippet], env=server | {"ALERT_URL": address}, check=True)
    place = new_place(tmp_path / "place", SimulateConfig(users=50, items=60))
    (place.folder / "interactions.csv").write_text("user_id,item_id,timestamp\nu,unknown,1700000000\n")
    done = subprocess.run(place.command("run"), cwd=place.folder, env=server, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    said = json.loads(posted.get(timeout=120))["text"]
    assert said.startswith("tiny: to make all 17 stages: Flow run encountered an exception: DataRefused: 1 of 1 ")
    assert re.search(r"/runs/flow-run/[0-9a-f-]{36}$", said)
