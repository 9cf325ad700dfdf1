"""What the pages say is what the code does: generated pages, commands, settings, reasons and links."""

import re
import tomllib

import pytest
import typer

from docs.reference import FOLDER, anchor, pages, sections, settings_of
from flows.cli import app
from flows.settings import Settings
from pipeline.ingest.minimum_counts import REASONS
from pipeline.ingest.refused import FILTERED
from pipeline.llm.answers import ASKED_TWICE
from pipeline.llm.completion import ONLY_REASONING, REFUSAL
from pipeline.llm.endpoint import NO_COMPLETION, TIMEOUT
from pipeline.llm.failures import SAY_NOTHING, UNASKED
from pipeline.llm.generator import NO_TEXT, TOO_LONG
from tests.docs.pages import PAGES, PAGES_NOT_RUN, README, ROOT, blocks, edt_commands

COMMANDS = typer.main.get_command(app).commands
NOT_RUN = {
    ("README.md", "make demo"),
    ("operations.md", "edt serve"),
    ("operations.md", "export PREFECT_API_URL=http://127.0.0.1:4200/api"),
    ("operations.md", "export PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://USER:PASSWORD@HOST/DATABASE"),
    ("tutorial.md", "edt trial"),
}
"""The blocks that are not run, by page and first two words: each says why where it stands."""


@pytest.mark.parametrize("name", ["settings.md", "artifacts.md", "commands.md", "python-api.md"])
def test_a_generated_page_is_what_the_code_says_today(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run `make reference`"


def test_every_setting_is_described():
    lacking = [
        ".".join((*path, name)) for path, kind in sections(Settings) for name, _, text in settings_of(kind) if not text
    ]
    assert lacking == []


@pytest.mark.parametrize(("where", "arguments"), [pytest.param(*each, id=" ".join(each[1])) for each in edt_commands()])
def test_a_command_in_the_pages_is_one_of_the_command_line(where, arguments):
    name, *rest = arguments
    COMMANDS[name].make_context(name, rest)  # raises for an option that there is not, and a missing argument


def test_the_blocks_that_are_not_run_are_these_and_say_why():
    found = {
        (block.page, " ".join(block.script.split()[:2])): block.not_run
        for block in blocks("sh", "console", "python")
        if block.not_run and block.page not in PAGES_NOT_RUN
    }
    assert found.keys() == NOT_RUN
    for reason in found.values():
        assert [test for test in re.findall(r"tests/\S+\.py", reason) if not (ROOT / test).is_file()] == []


@pytest.mark.parametrize("block", [pytest.param(each, id=f"{each.page}:{each.line}") for each in blocks("toml")])
def test_a_block_of_settings_is_understood(block):
    given = {"dataset": "shop", "data": {"interactions": "actions.csv", "items": "catalogue.csv"}}
    shown = tomllib.loads(block.text)
    Settings.model_validate(given | shown | {"data": given["data"] | shown.get("data", {})})


@pytest.mark.parametrize(
    "page", [pytest.param(each, id=each.name) for each in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")]
)
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = page.read_text(encoding="utf-8")
    broken = []
    for target, fragment in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        file = (page.parent / target).resolve() if target else page
        is_there = file.exists() and (not fragment or fragment in headings(file.read_text(encoding="utf-8")))
        broken += [] if is_there else [f"{target}#{fragment}"]
    assert broken == []


def headings(text):
    """Return the fragments under which a page's headings are linked."""
    return {anchor(title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_the_page_of_reasons_has_every_reason_of_the_code():
    words = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "reasons.md").read_text(encoding="utf-8")))
    ingest = "".join(path.read_text() for path in (ROOT / "pipeline" / "ingest").glob("*.py"))
    ground = (ROOT / "pipeline" / "augment" / "ground.py").read_text()
    wanted = {*FILTERED, *ASKED_TWICE, *SAY_NOTHING, *UNASKED, TOO_LONG, NO_TEXT, NO_COMPLETION, TIMEOUT, REFUSAL}
    wanted |= {ONLY_REASONING, *REASONS.values()} | set(re.findall(r'then\(pl\.lit\("(\w+)"\)\)', ingest + ground))
    wanted |= set(re.findall(r'_refused\([^"]*"(\w+)"\)', ingest)) | set(re.findall(r'return "(too_\w+)"', ingest))
    assert wanted - words - {"not_asked"} == set()


def test_every_message_of_troubleshooting_is_one_of_the_code():
    """Of each message, its longest piece between what differs (`...`)."""
    files = [path for room in ("data_lake", "pipeline", "flows", "model") for path in (ROOT / room).rglob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    source = re.sub(r"""["']\s*\n\s*[fr]?["']""", "", source).replace('\\"', '"')
    text = " ".join((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").split())
    messages = re.findall(r"- ((?:`[^`]+`(?:, )?)+)\\", text)
    pieces = [
        max(re.split(r"\.\.\.", each), key=len).strip()
        for group in messages
        for each in re.findall(r"`([^`]+)`", group)
    ]
    assert len(pieces) > 30
    assert [piece for piece in pieces if piece not in source] == []


def test_readme_is_short():
    assert README.stat().st_size < 10_000


def test_every_page_is_in_the_list_of_the_index():
    listed = re.search(r"```\{toctree\}\n.*?\n\n(.*?)```", (ROOT / "docs" / "index.md").read_text(), re.DOTALL)[
        1
    ].split()
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem != "index")
