"""The display of progress for the person who waits: bars in a terminal, a line a minute in a log.

A process that works for another one prints it for that one to show.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from data_lake.pace import View, amount, left, sentence

FOR_ANOTHER = "EDT_PROGRESS_TO_STDOUT"
"""Environment variable of a process whose progress another one reads from its stdout (see `read_line`)."""

MINUTE = 60.0
STILL = "Still at "
"""How a line in a log begins."""


class Display(Protocol):
    """Shows work while it goes on."""

    def show(self, views: Sequence[View]) -> None:
        """Show what stands, the outermost work first."""

    def close(self) -> None:
        """Show nothing any more."""


def open_display() -> Display:
    """Return the display of this process. Of the ranks of one training only the first has one."""
    if os.environ.get("RANK", "0") != "0":
        return Nothing()
    if FOR_ANOTHER in os.environ:
        return Printed()
    try:
        return Bars() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else Lines()
    except ImportError:  # rich: the trainer runs without it
        return Lines()


class Nothing:
    """Shows nothing."""

    def show(self, views: Sequence[View]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Printed:
    """Prints a line of JSON to stdout, for `read_line` of the process that waits."""

    def show(self, views: Sequence[View]) -> None:
        """Print how work stands whose whole is known: how long it takes the one that waits sees by itself."""
        print(json.dumps([view for view in views if view.total is not None]), flush=True)

    def close(self) -> None:
        """Print that nothing goes on."""
        self.show([])


def read_line(line: str) -> list[View] | None:
    """Return the views of a line that `Printed` printed; None of any other line."""
    if not line.startswith("["):
        return None
    try:
        return [View(*each) for each in json.loads(line)]
    except (ValueError, TypeError):
        return None


class Lines:
    """Writes a line a minute, to stderr unless `write` is given."""

    def __init__(
        self, write: Callable[[str], object] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock, self._last = write, clock, clock()

    def show(self, views: Sequence[View]) -> None:
        """Write how work stands, unless a line was written less than a minute ago."""
        if self._clock() - self._last < MINUTE:
            return
        self._last = self._clock()
        line = STILL + "; ".join(map(sentence, views))
        if self._write is not None:
            self._write(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing."""


class Bars:
    """A bar for each piece of work, drawn anew in its place, below what is printed meanwhile. Raises ImportError."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            console=Console(stderr=True, highlight=False), auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start()

    def show(self, views: Sequence[View]) -> None:
        """Draw how work stands."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table: Any = Table.grid(padding=(0, 2, 0, 0))
        for depth, view in enumerate(views):
            bar = ProgressBar(view.total, min(view.done, view.total or view.done), width=24, pulse=view.total is None)
            took = str(timedelta(seconds=int(view.seconds)))
            words = ("  " * depth + view.what, bar, amount(view), took, left(view), view.note)
            table.add_row(*(Text(each) if isinstance(each, str) else each for each in words))
        self._live.update(table, refresh=True)

    def close(self) -> None:
        """Take the bars away."""
        self._live.stop()
