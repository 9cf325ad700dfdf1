"""Plain text for a terminal: tables, messages, and escapes for the control characters of untrusted texts."""

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

WIDEST = 60


def escape_control(text: str) -> str:
    """Return the text in one line, with what could steer a terminal written out as an escape."""
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else c for c in text)


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


def log(text: str) -> None:
    """Tell the person at the terminal how things go; results go to stdout instead. Control characters are escaped."""
    print("\n".join(map(escape_control, text.split("\n"))), file=sys.stderr, flush=True)
