"""A lake of the version before: its settings are understood, and a language model is asked nothing again."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_lake.config import RenamedSettingWarning
from flows.run import RunRequest, open_run
from flows.selection import StageSelection
from flows.stages import ASKING

BEFORE = Path(__file__).parent / "lake-0.1.0"
"""Raw files, settings and memories as version 0.1.0 wrote them, with replies by a stub to every prompt.

Profiles are asked for again where they listed an item that that version inserted and this one does not: 8 of 51.

The settings name its prompts as files, so that this stays true when ours change. No user has two items that represent a
group equally well: which of them version 0.1.0 took hung on the processor.
"""


class Counting(BaseHTTPRequestHandler):
    """Counts requests and refuses them."""

    def do_POST(self):
        self.server.asked += 1
        self.send_error(400)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    server.daemon_threads, server.asked = True, 0
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_what_the_version_before_asked_is_answered_from_its_memory_but_for_profiles_of_what_it_inserted(
    tmp_path, endpoint
):
    for name in ("interactions.csv", "items.csv", "edt.toml"):
        shutil.copy(BEFORE / name, tmp_path)
    shutil.copytree(BEFORE / "prompts", tmp_path / "prompts")
    shutil.copytree(BEFORE / "memory", tmp_path / "data_lake" / "store" / "shop" / "memory")
    url = f"openai.base_url=http://127.0.0.1:{endpoint.server_address[1]}/v1"
    former = ("enrich.probes=0", "embed.precision=float32")  # as 0.1.0 did, whatever the processor has
    overrides = (url, *former, "llm.max_failed=1")  # what is asked is refused, and may be
    config = tmp_path / "edt.toml"
    with pytest.warns(RenamedSettingWarning, match="evidence is now called prompt_share"):
        make(RunRequest(config=config, overrides=overrides, selection=StageSelection(to="ground")))
    assert endpoint.asked == 0
    with pytest.warns(RenamedSettingWarning, match="evidence is now called prompt_share"):
        lake = make(RunRequest(config=config, overrides=overrides, selection=StageSelection(to="profile_users")))
    figures = {stage: lake.manifest(artifact).figures for stage, artifact in ASKING.items() if stage in OK}
    assert {stage: each["ok"] for stage, each in figures.items()} == OK
    assert {stage: each["failed"].get("http_400", 0) for stage, each in figures.items()} == ASKED_AGAIN


def make(request):
    with open_run(request) as run:
        for stage in run.selection.apply(run.stages):
            run.lake.run(stage)
        return run.lake


OK = {"generate_items": 36, "profile_domains": 43, "profile_users": 28}
"""Rows that are answered from memory, of the three asking stages."""
ASKED_AGAIN = {"generate_items": 0, "profile_domains": 8, "profile_users": 8}
"""Rows of profiles that listed inserted items, and of those that merge them."""
