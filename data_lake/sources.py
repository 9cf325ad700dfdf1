"""Content hashes of raw files, remembered between runs so that an unchanged file is hashed once."""

import json
from collections.abc import Sequence
from pathlib import Path

from data_lake.files import put_text
from data_lake.manifest import hash_file


def source_hashes(paths: Sequence[Path], known_file: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its absolute path; hash only those whose size or time has changed.

    `known_file` remembers sizes, times and hashes; it is written where its folder exists.
    """
    known = json.loads(known_file.read_text(encoding="utf-8")) if known_file.exists() else {}
    before, hashes = dict(known), {}
    for path in map(Path.absolute, paths):
        stat = path.stat()
        entry = known.get(str(path))
        if entry is None or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            entry = known[str(path)] = [stat.st_size, stat.st_mtime_ns, hash_file(path)]
        hashes[str(path)] = entry[2]
    if known != before and known_file.parent.exists():
        put_text(known_file, json.dumps(known, indent=1))
    return hashes
