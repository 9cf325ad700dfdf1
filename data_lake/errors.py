"""Errors that a user can fix."""

import errno
import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from data_lake.messages import hide_credentials

if TYPE_CHECKING:
    import pyarrow as pa


DISK = {
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Make room",
    errno.EACCES: "Give yourself the right to it",
    errno.EPERM: "Give yourself the right to it",
    errno.EROFS: "Make it writable",
    errno.EIO: "Check the disk",
}
"""What to do about errors of a disk, which trying again does not cure."""


class UserError(Exception):
    """A mistake in input or settings. The message says what is wrong, where, and what to do.

    The command line prints it without a traceback; every other exception keeps its traceback. What a URL in it holds
    before its host, or as its query, is hidden.
    """

    def __init__(self, message: str) -> None:
        super().__init__(hide_credentials(message))


class DataRefused(UserError):
    """A stage that stops because of its data, with the rows that show why.

    `evidence` holds tables of the stage's outputs, one behind the other, by artifact. The lake keeps them until the
    stage succeeds, apart from the current artifacts.
    """

    def __init__(self, message: str, evidence: "Mapping[str, Iterable[pa.Table]]") -> None:
        super().__init__(message)
        self.evidence = evidence


class UnknownIdError(UserError):
    """An id that the data does not hold; the message names those that are nearly alike."""

    def __init__(self, kind: str, name: str, known: Iterable[str], what_to_do: str) -> None:
        super().__init__(f"There is no {kind} '{name}'.{nearest(name, known, most=3)} {what_to_do}")


class HeldBack(UserError):
    """A stage whose finished artifacts are not to become current; the current ones stay.

    `why` is what is wrong with them, in short; the message says beside it what to do. The lake keeps the work, so that
    the next run with the same inputs and settings starts from what is finished.
    """

    def __init__(self, why: str, what_to_do: str) -> None:
        super().__init__(f"{why}. {what_to_do}")
        self.why = why


def disk_failure(error: BaseException) -> str | None:
    """Return the message about an error of a disk: what, where and what to do; None where it is none.

    Libraries in Rust tell the system's number in their words alone.
    """
    told = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
    if number not in DISK:
        return None
    where = error.filename if isinstance(error, OSError) else None
    words = f"{os.strerror(number)}: {where}" if where else str(error).removeprefix(f"[Errno {number}] ").split("\n")[0]
    return f"{words.removesuffix('.')}. {DISK[number]} and run again: what is finished is kept."


def shortened(names: Iterable[str], most: int = 20, widest: int = 60) -> str:
    """Return names from data in one line for a message: the first `most` of them, each cut to `widest` characters."""
    every = list(names)
    shown = [name if len(name) <= widest else name[: widest - 1] + "…" for name in every[:most]]
    return ", ".join(shown) + (f" and {len(every) - most:,} more" if len(every) > most else "")


def nearest(name: str, known: Iterable[str], most: int = 1) -> str:
    """Return " Did you mean 'ground'?" for a name that is nearly a known one, an empty text for any other."""
    found = get_close_matches(name, known, n=most)
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""
