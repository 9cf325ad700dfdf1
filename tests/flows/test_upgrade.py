"""A lake of the version before: its settings are understood, and a language model is asked nothing again."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_lake.config import RenamedSettingWarning
from flows.run import RunRequest, open_run
from flows.selection import StageSelection

BEFORE = Path(__file__).parent / "lake-0.1.0"
"""Raw files, settings and memories as version 0.1.0 wrote them, with replies by a stub to every prompt.

Profiles are asked for again where other items are inserted than by that version.

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


def test_every_question_about_items_of_the_version_before_is_answered_from_its_memory(tmp_path, endpoint):
    for name in ("interactions.csv", "items.csv", "edt.toml"):
        shutil.copy(BEFORE / name, tmp_path)
    shutil.copytree(BEFORE / "prompts", tmp_path / "prompts")
    shutil.copytree(BEFORE / "memory", tmp_path / "data_lake" / "store" / "shop" / "memory")
    url = f"openai.base_url=http://127.0.0.1:{endpoint.server_address[1]}/v1"
    to_items = StageSelection(to="generate_items")
    request = RunRequest(config=tmp_path / "edt.toml", overrides=(url, "enrich.probes=0"), selection=to_items)
    with pytest.warns(RenamedSettingWarning, match="evidence is now called prompt_share"), open_run(request) as run:
        made = [run.lake.run(stage) for stage in run.selection.apply(run.stages)]
    asked = {each.stage: each.figures["asked"] for each in made if "asked" in each.figures}
    assert endpoint.asked == 0
    assert asked == {"embed_items": 0, "generate_items": 0}
    assert run.lake.manifest("generated_items").figures["ok"] == 36
