"""What a person sees in a terminal while `edt run` works."""

import os
import pty
import re
import subprocess
import termios

import pytest

from pipeline.sample_world.simulate import SimulateConfig

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.slow
def test_a_terminal_shows_bars_while_stages_work_and_keeps_the_lines_alone(new_place, tmp_path):
    place = new_place(tmp_path / "place", SimulateConfig(users=50, items=60))
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 200))
    long = ("enrich.generator=none", "train.pretrain.epochs=60", "train.pretrain.patience=60")
    command = place.command("run", "--to", "pretrain", *(f"--set={each}" for each in long))
    environment = place.environment() | {"TERM": "xterm-256color"}
    run = subprocess.Popen(command, cwd=place.folder, env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    said = b""
    while chunk := read(ours):
        said += chunk
    assert run.wait() == 0, said
    written = said.decode()
    words = ESCAPES.sub("", written)
    assert re.search(r"embed_items +[━╸╺]+ +\d+ of \d+ rows +0:00:\d\d", words)
    assert re.search(r"  embedding +[━╸╺]+ +\d+ of \d+ texts", words)
    assert re.search(r"pretrain +[━╸╺]+ +0:00:\d\d", words)
    assert re.search(r"  training +[━╸╺]+ +\d+ of 60 epochs +0:00:\d\d", words)
    assert re.search(r"[\r\n]pretrain epoch 60/60: loss ", words)
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")  # the cursor is hidden while bars are there
    assert "━" not in words.rpartition("Done in ")[2]


def read(pipe: int) -> bytes:
    """Return what a terminal got next; nothing once its other end is closed."""
    try:
        return os.read(pipe, 1 << 16)
    except OSError:
        return b""
