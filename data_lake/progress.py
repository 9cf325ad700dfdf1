"""How work goes that takes a while: how much is done, how fast, how long it will take; shown while it goes on.

Work opens `progress` and counts what it does with `advance`; work inside other work stands below it. Twice a second a
thread hands what stands to the display (see `progress_display.py`), so that the work itself only counts.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from data_lake.pace import Pace, View
from data_lake.progress_display import Display, open_display

T = TypeVar("T")

LOOK_SECONDS = 0.5
"""How often a display gets what stands."""


class Work:
    """A piece of work that goes on."""

    def __init__(
        self, what: str, total: float | None = None, unit: str = "", done: float = 0.0, outer: "Work | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.what, self.total, self.unit, self.note = what, total, unit, ""
        self.least: float | None = None
        """How much is done at least before the work may end, where that is less than the total."""
        self.inside: Sequence[View] = ()
        """How work stands that another process does for this one."""
        self._clock, self._outer, self._lock = clock, outer, threading.Lock()
        self._started, self._done, self._pace = clock(), done, Pace()
        self._part_start, self._part = done, 0.0

    def begin(self, total: float, unit: str) -> None:
        """Say how much there is to do from now on, where that was not known at the start."""
        self.total, self.unit, self._done, self._pace = total, unit, 0.0, Pace()

    def advance(self, n: float = 1) -> None:
        """Count `n` more as done. Any thread may."""
        with self._lock:
            self._reach(self._done + n)

    @contextmanager
    def part(self, n: float = 1) -> Iterator[None]:
        """Do `n` of the work in the context: they count as far as the work that is opened inside it has come."""
        self._part_start, self._part = self._done, n
        try:
            yield
        finally:
            self._part = 0.0
        self._reach(self._part_start + n)

    def view(self) -> View:
        """Return how it stands."""
        now = self._clock()
        left = soonest = None
        if self.total is not None and self._done < self.total:
            left = self._pace.seconds_left(now, self.total)
            if self.least is not None and self.least < self.total:
                soonest = self._pace.seconds_left(now, self.least)
        seconds = now - self._started
        return View(self.what, self._done, self.total, self.unit, seconds, left, soonest, self.note)

    def _reach(self, done: float) -> None:
        if done <= self._done:
            return
        self._done = done
        self._pace.move(self._clock(), done)
        if self._outer is not None and self._outer._part and self.total:
            self._outer._reach(self._outer._part_start + self._outer._part * min(1.0, done / self.total))


_open: list[Work] = []
_also: list[Callable[[], Display]] = []
_watchers: list["_Watcher"] = []


@contextmanager
def progress(what: str, total: float | None = None, unit: str = "", done: float = 0.0) -> Iterator[Work]:
    """Give work to count; it is shown while the context lasts, below the work around it.

    `done` of the `total` are done already.
    """
    work = Work(what, total, unit, done, _open[-1] if _open else None)
    _open.append(work)
    if len(_open) == 1:
        _watchers.extend(_Watcher(display) for display in (open_display, *_also))
    try:
        yield work
    finally:
        _open.remove(work)
        if not _open:
            stop_showing()


def counted(each: Iterable[T], what: str, total: int, unit: str) -> Iterator[T]:
    """Yield what `each` yields, and count one as done when the next is asked for."""
    with progress(what, total, unit) as work:
        for one in each:
            yield one
            work.advance()


def show_inside(views: Sequence[View]) -> None:
    """Show how work stands that another process does for the innermost work here."""
    if _open:
        _open[-1].inside = views


@contextmanager
def shown_to(display: Display) -> Iterator[None]:
    """Let `display` show the work that is opened in the context, besides the one for the person who waits."""
    _also.append(lambda: display)
    try:
        yield
    finally:
        _also.pop()


def stop_showing() -> None:
    """End all displays, for a process that ends at once."""
    while _watchers:
        _watchers.pop().end()


class _Watcher:
    """Hands what stands to a display, from a thread of its own with the context variables of the work."""

    def __init__(self, display: Callable[[], Display]) -> None:
        """`display` is called for work that lasts a moment."""
        self._is_over = threading.Event()
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._watch, display), name="progress", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self, made: Callable[[], Display]) -> None:
        if self._is_over.wait(LOOK_SECONDS):
            return
        display = made()
        while not self._is_over.wait(LOOK_SECONDS):
            display.show([view for work in list(_open) for view in (work.view(), *work.inside)])
        display.close()
