"""The trainer as a child process, alone or as several ranks."""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_lake.config import Config
from data_lake.errors import UserError
from data_lake.progress import show_inside
from data_lake.progress_display import FOR_ANOTHER, read_line
from flows.text import log
from model.config import EvaluateConfig
from pipeline.processes.child import Child, ending

TAIL = 4000
"""Characters at the end of the child's output that an error shows."""

MISTAKE = "error: "
"""How the trainer's last words begin where the user can help."""


def run_model(verb: str, *options: str | Path, config: Config, processes: int = 1) -> None:
    """Run `python -m model VERB`; what it says is logged line by line.

    A mistake that the trainer tells the user is raised as `UserError`, any other end as `RuntimeError`.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "config.json"
        settings.write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
        command = [sys.executable, *ranks(processes), "-m", "model", verb, *map(str, options)]
        code, tail = _follow([*command, "--config", str(settings)])
    if code:
        last = f"\n{tail}".rpartition(f"\n{MISTAKE}")[2].strip()
        if f"\n{MISTAKE}" in f"\n{tail}" and code in (1, 2):
            raise UserError(last)
        raise RuntimeError(f"`python -m model {verb}` ended with {ending(code)}. Its last lines:\n{tail}")


def ranks(processes: int) -> list[str]:
    """Return the arguments that let Python run a program as this number of processes on this machine."""
    return [] if processes == 1 else ["-m", "model.ranks", str(processes)]


@contextmanager
def run_folder(**artifacts: Path) -> Iterator[Path]:
    """Give a folder that shows artifacts under the names that the trainer knows them by."""
    with tempfile.TemporaryDirectory() as folder:
        for name, path in artifacts.items():
            (Path(folder) / name).symlink_to(path, target_is_directory=True)
        yield Path(folder)


def compare_phases(
    data: Path, artifact: str, new: Path, before: Path, before_data: Path, cfg: EvaluateConfig
) -> dict[str, Any]:
    """Return what `python -m model compare` says, see `ComparedCheckpoints`: a phase beside the same one of before.

    new, before: folders of the artifact that holds the phase. data, before_data: the training set of each.
    """
    with (
        run_folder(**{artifact: new}) as now,
        run_folder(**{artifact: before}) as then,
        tempfile.TemporaryDirectory() as folder,
    ):
        out = Path(folder) / "compared.json"
        folders = ("--run", now, "--before-data", before_data, "--before", then, "--out", out)
        run_model("compare", "--data", data, *folders, config=cfg)
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


def _follow(command: list[str]) -> tuple[int, str]:
    """Run a command, show its progress, log what else it says, and return its exit code and its last words."""
    child = Child(command, subprocess.PIPE, subprocess.PIPE, {FOR_ANOTHER: "1"})
    tail = ""
    try:
        assert child.process.stdout is not None
        assert child.process.stderr is not None
        with child.process.stdout as printed, child.process.stderr as said:
            for line in _lines(printed.fileno(), said.fileno()):
                if (views := read_line(line)) is not None:
                    show_inside(views)
                else:
                    log(line)
                    tail = f"{tail}{line}\n"[-TAIL:]
        return child.wait(), tail
    finally:
        show_inside(())
        child.end()


def _lines(*pipes: int) -> Iterator[str]:
    """Yield the lines of several pipes as they come, until all have ended."""
    begun = dict.fromkeys(pipes, b"")
    while begun:
        for pipe in select.select(begun, [], [])[0]:  # Ctrl-C ends it; a read goes on where polars has taken SIGINT
            chunk = os.read(pipe, 1 << 16)
            *whole, begun[pipe] = (begun[pipe] + chunk).split(b"\n")
            if not chunk:
                whole = [begun.pop(pipe)]
            yield from (line.decode(errors="replace") for line in whole if chunk or line)
