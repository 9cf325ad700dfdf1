"""Plain text for a terminal: tables and messages."""

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from data_lake.messages import escape_control, for_terminal

WIDEST = 60

_listeners: list[Callable[[str], None]] = []
"""What hears the lines of `log`, too: the last of them."""


def cell(value: Any, widest: int = WIDEST, decimals: int = 4) -> str:
    """Return a value as it stands in a table: a text cut to `widest`, a number below one with `decimals`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.{decimals}f}" if abs(value) < 1 else f"{value:,.1f}"
    text = escape_control(str(value))
    return text if len(text) <= widest else text[: widest - 1] + "…"


def table(rows: Sequence[Mapping[str, Any]], widest: int = WIDEST) -> str:
    """Return rows as aligned columns under their names; numbers stand to the right, `seconds` with one decimal."""
    if not rows:
        return ""
    columns = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        texts = [name, *(cell(value, widest, 1 if name == "seconds" else 4) for value in values)]
        width = max(map(len, texts))
        right = all(value is None or type(value) in (int, float) for value in values)
        columns.append([each.rjust(width) if right else each.ljust(width) for each in texts])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def show(text: str) -> None:
    """Print a result to stdout, safe for a terminal (see `for_terminal`)."""
    print(for_terminal(text))


def log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show the traceback of an error that nobody expected, as `sys.excepthook` does, but safely."""
    log("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def log(text: str) -> None:
    """Tell the person at the terminal, through stderr and as safely, how things go."""
    shown = for_terminal(text)
    print(shown, file=sys.stderr, flush=True)
    for hear in _listeners[-1:]:
        hear(shown)


@contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """Let `listener` have what `log` says while the context lasts, and a context around this one not."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
