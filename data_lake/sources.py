"""Content hashes of raw files, remembered between runs so that an unchanged file is hashed once."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_lake.errors import UserError, shortened
from data_lake.files import put_text
from data_lake.manifest import hash_file

Known = dict[str, list[Any]]
"""[size, modification time in ns, SHA-256] of files by their absolute path."""


def source_hashes(paths: Sequence[Path], known_file: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its absolute path; hash only those whose size or time has changed.

    `known_file` remembers sizes, times and hashes; it is written where its folder can be.
    """
    known = _load(known_file)
    before, hashes = dict(known), {}
    for path in map(Path.absolute, paths):
        entry = known.get(str(path))
        if entry is None or entry[:2] != _size_and_time(path):
            entry = known[str(path)] = _hashed(path)
        hashes[str(path)] = entry[2]
    if known != before:
        _save(known, known_file)
    return hashes


def check_unchanged(hashes: Mapping[str, str], known_file: Path) -> None:
    """Hash files again that a stage has read; raise UserError where one is not what `hashes` says, by absolute path.

    `known_file` is corrected, so that the next run starts from the files as they are.
    """
    now = {path: _hashed(Path(path)) for path in hashes if Path(path).is_file()}
    changed = [path for path, content in hashes.items() if path not in now or now[path][2] != content]
    if changed:
        _save(_load(known_file) | {path: now[path] for path in changed if path in now}, known_file)
        raise UserError(
            f"{shortened(changed, 3, 300)}: changed while it was read. Nothing was published. Run again once it is "
            "written to its end."
        )


def _size_and_time(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _hashed(path: Path) -> list[Any]:
    """Return size, time and hash; a file that changes meanwhile has another time afterwards."""
    return [*_size_and_time(path), hash_file(path)]


def _load(known_file: Path) -> Known:
    """Return what is remembered, nothing of a file that was cut: every hash can be made again."""
    try:
        found = json.loads(known_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {path: entry for path, entry in entries if isinstance(entry, list) and len(entry) == 3}


def _save(known: Known, known_file: Path) -> None:
    if os.access(known_file.parent, os.W_OK):
        put_text(known_file, json.dumps(known, indent=1))
