"""Messages about a stage that failed: one line after each try, and at the end three and the traceback's file."""

import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from data_lake.messages import hide_credentials
from flows.text import cell, log

WIDEST = 300


class StageFailed(Exception):
    """A stage failed, and not by a mistake of the user's. The message ends with the file that holds the traceback."""


def stage_failed(stage: str, error: Exception, logs: Path, number: int, delays: Sequence[float]) -> StageFailed:
    """Write the traceback into the folder `logs`, log when the next try comes, and return what to raise.

    `number` counts the tries from 1; `delays` are the seconds before each further one.
    """
    tries = f"try {number} of {len(delays) + 1}"
    words = ": ".join(filter(None, [type(error).__name__, hide_credentials(str(error)).strip()]))
    first, *rest = [line for line in words.splitlines() if line.strip()]
    if number <= len(delays):
        why = cell(" ... ".join([first, *rest[-1:]]), WIDEST).removesuffix(".")
        log(f"{stage} failed ({tries}): {why}. Next try in {delays[number - 1]:g} s.")
    where = _write_log(logs / f"{stage}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.log", error)
    shown = [cell(line, WIDEST) for line in (f"{stage} failed ({tries}): {first}", *rest[-1:])]
    return StageFailed("\n".join([*shown, f"Its traceback {where}"]))


def _write_log(file: Path, error: Exception) -> str:
    """Add the traceback to the file; say where it is, or why it could not be written, as on a full disk."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8", errors="backslashreplace") as out:
            out.writelines(map(hide_credentials, traceback.format_exception(error)))
    except OSError as failure:
        return f"could not be written to {file}: {failure}"
    return f"is in {file}"
