"""Put files and folders in place atomically: a reader sees a complete one or none, after a crash too."""

import ctypes
import hashlib
import os
import shutil
import uuid
from pathlib import Path

TEMPORARY = ".tmp-"
"""How the name of every half-written file begins; nothing reads it, and `Lake.clean` removes it."""


def cache_folder(name: str) -> Path:
    """Return the folder of this name in the user's cache folder."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return caches / "llm-edt" / hashlib.sha256(name.encode()).hexdigest()[:16]


def temporary(folder: Path) -> Path:
    """Return a new path inside `folder` for a file or folder that is being written."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{TEMPORARY}{uuid.uuid4().hex}"


def flush(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """Force a folder with everything in it onto the disk."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def put_file(written: Path, path: Path) -> None:
    """Give a written file its final name."""
    flush(written)
    os.replace(written, path)
    flush(path.parent)


def put_folder(written: Path, path: Path) -> None:
    """Give a written folder its final name; a folder that has the name already is removed.

    Where the file system can exchange two folders (Linux, most local disks) a reader always finds one of them;
    elsewhere it finds none between two renames.
    """
    flush_tree(written)
    if path.exists():
        replaced = written.rename(temporary(path.parent))  # a name that no run resumes from
        if not _exchange(replaced, path):
            new, replaced = replaced, temporary(path.parent)
            path.rename(replaced)
            new.rename(path)
        shutil.rmtree(replaced)
    else:
        written.rename(path)
    flush(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders swap their names in one step, by Linux's renameat2; return whether that was possible."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def put_link(path: Path, target: str) -> None:
    """Point the symlink `path` at `target`, a name in the same folder."""
    link = temporary(path.parent)
    link.symlink_to(target)
    os.replace(link, path)
    flush(path.parent)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with everything in it; where there is none, do nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_text(path: Path, text: str) -> None:
    """Write a small text file."""
    written = temporary(path.parent)
    written.write_text(text, encoding="utf-8")
    put_file(written, path)
