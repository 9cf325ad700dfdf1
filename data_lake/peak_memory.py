"""How much memory a process and its children hold together at most, by Linux's /proc."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_SECONDS = 0.2


class PeakMemory:
    """Samples the resident memory of this process and its children while the context lasts.

    `bytes` is the largest sum seen; None where there is no /proc. Pages that processes share count in each, and what
    lasts less than SAMPLE_SECONDS may be missed.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample_often, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._sample()
        if self.bytes is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._sample()

    def _sample_often(self) -> None:
        while not self._is_over.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        if held := sum(map(_resident_bytes, _family(Path("/proc/self").resolve()))):
            self.bytes = max(held, self.bytes or 0)


def _family(process: Path) -> Iterator[Path]:
    """Yield a process's folder in /proc, then those of its children and their children."""
    yield process
    for listed in process.glob("task/*/children"):
        with suppress(OSError):  # it ended meanwhile
            for child in listed.read_text().split():
                yield from _family(process.parent / child)


def _resident_bytes(process: Path) -> int:
    with suppress(OSError):
        for line in (process / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
