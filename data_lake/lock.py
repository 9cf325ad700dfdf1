"""One writer at a time per dataset.

The lock is the operating system's record lock on a file: it ends with its process, so a dead writer blocks nobody.
"""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_lake.errors import UserError

_held: dict[Path, int] = {}  # how often this process entered each lock; a record lock does not exclude its own process
_locks: dict[Path, ExitStack] = {}
_guard = threading.Lock()


@contextmanager
def locked(path: Path, also: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[None]:
    """Hold the lock file `path`, and the lock that `also` makes; this process may enter again.

    Raises UserError naming host, process and time when another process holds it.
    """
    path = path.absolute()
    with _guard:
        if _held.get(path, 0) == 0:
            with ExitStack() as stack:
                stack.callback(_release, _take(path))
                stack.enter_context(also())
                _locks[path] = stack.pop_all()
        _held[path] = _held.get(path, 0) + 1
    try:
        yield
    finally:
        with _guard:
            _held[path] -= 1
            if _held[path] == 0:
                _locks.pop(path).close()


def _take(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}). Set [lake] root to a folder that can."
        ) from error
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        text = os.pread(handle, 4096, 0).decode(errors="replace")
        os.close(handle)
        raise UserError(in_use(path.parent.name, text)) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, holder().encode(), 0)
    return handle


def _release(handle: int) -> None:
    os.ftruncate(handle, 0)
    os.close(handle)


def holder() -> str:
    """Return the text of a lock that this process holds: host, process and time as JSON."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})


def is_dead(who: Mapping[str, Any]) -> bool:
    """Whether the holder of a lock, as `holder` writes it, was a process of this machine that is no more."""
    if who.get("host") != socket.gethostname() or not isinstance(who.get("pid"), int):
        return False
    try:
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def in_use(dataset: str, text: str) -> str:
    """Return the message that names the holder of a lock; `text` is the lock's text."""
    try:
        who = json.loads(text)
        by = f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        by = "another process"
    return f"Dataset '{dataset}' is being written by {by}. Wait until it is done, or end it."
