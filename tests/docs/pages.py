"""The pages of README and docs/, and the blocks in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [
    README,
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "index", "tutorial", "generators", "training", "operations", "alerts", "settings", "commands", "artifacts",
            "python-api", "reasons", "troubleshooting", "results", "licences",
        )
    ),
]  # fmt: skip
"""In the order in which their blocks are run."""

PAGES_NOT_RUN = {
    "alerts.md": "tests/flows/test_alerts.py runs it, on a server and a web hook of its own",
    "results.md": "needs real data, which is not part of the repository, and hours",
}
"""Pages of which no block is run, and why."""

_BLOCK = re.compile(r"^```(\w+)(?: not-run=\"([^\"]*)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|[(;&|] ?)(edt [^\n|;&)]*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its text, and why it is not run, if it is not."""

    page: str
    line: int
    language: str
    text: str
    not_run: str

    @property
    def script(self) -> str:
        """What is run of it: of a console what stands after `$ `, of anything else all."""
        if self.language != "console":
            return self.text
        return "".join(f"{line[2:]}\n" for line in self.text.splitlines() if line.startswith("$ "))


def blocks(*languages: str) -> Iterator[Block]:
    """Yield the blocks of all pages in these languages, in order."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in _BLOCK.finditer(text):
            if found[1] in languages:
                line = text[: found.start()].count("\n") + 1
                yield Block(page.name, line, found[1], found[3], found[2] or PAGES_NOT_RUN.get(page.name, ""))


def edt_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield where it stands, and the arguments, of each `edt` command in a block or, with arguments, in prose."""
    for block in blocks("sh", "console"):
        for command in _COMMAND.findall(block.script):
            yield f"{block.page}:{block.line}", shlex.split(command, comments=True)[1:]
    for page in PAGES:
        prose = _BLOCK.sub("", page.read_text(encoding="utf-8"))
        for span in re.findall(r"`(edt [^`]+ [^`]+)`", prose):
            yield page.name, shlex.split(" ".join(span.split()))[1:]
