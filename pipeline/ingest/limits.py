"""What a file may hold, so that a damaged or hostile one does not take the machine's memory."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_lake.errors import UserError, shortened

LONGEST_RECORD = 1 << 20
"""Bytes of a line, and of a quoted CSV record over several lines; a longer line is a bad one."""
LONGEST_LITERAL = 1 << 17
"""Characters of a line that is read as a Python dict, which takes long."""
RECORD_LINES = 1000
"""Lines that one quoted CSV record may span; a quote that stays open for longer is a bad line."""
MOST_COLUMNS = 10_000
MOST_UNPACKED = 100
"""How many times its size a compressed file may become; up to FREELY_UNPACKED bytes (Parquet: rows) in any case."""
FREELY_UNPACKED = 1 << 24


def check_columns(path: Path, columns: Sequence[str]) -> list[str]:
    """Return the names of the columns; refuse too many of them, and a name that stands there twice."""
    if len(columns) > MOST_COLUMNS:
        raise UserError(f"{path}: it has {len(columns):,} columns; at most {MOST_COLUMNS:,} are read (MOST_COLUMNS).")
    twice = [name for name, count in Counter(columns).items() if count > 1 and name]
    if twice:
        raise UserError(f"{path}: more than one column is called {shortened(twice)}. Rename or drop the others.")
    return list(columns)


def check_unpacked(path: Path, unpacked: int) -> None:
    """Refuse a compressed file that becomes too large: `unpacked` bytes, or rows, of it are known."""
    if unpacked > max(MOST_UNPACKED * path.stat().st_size, FREELY_UNPACKED):
        raise UserError(
            f"{path}: unpacked it is more than {MOST_UNPACKED} times its size (MOST_UNPACKED), as damaged and hostile "
            "files are. If it is neither, save it without compression."
        )
