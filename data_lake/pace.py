"""How far a piece of work is and how long the rest will take, in numbers and in words."""

from typing import NamedTuple

LEAST_SECONDS = 0.2
"""Moves that follow each other faster count as one."""

MOST_MOVES = 128


class View(NamedTuple):
    """How one piece of work stands.

    `total` is None where nobody knows how much there is. `seconds` are those since its start, `left` those still to go:
    None while that cannot be told. Where work may end before its whole is done, `soonest` are the seconds at least.
    """

    what: str
    done: float
    total: float | None
    unit: str
    seconds: float
    left: float | None
    soonest: float | None = None
    note: str = ""


class Pace:
    """How fast work goes, by the moments at which some of it was done. Times are in seconds."""

    def __init__(self) -> None:
        self._moves: list[tuple[float, float]] = []

    def move(self, now: float, done: float) -> None:
        """Take down that so much is done now."""
        if self._moves and now - self._moves[-1][0] < LEAST_SECONDS:
            return
        self._moves.append((now, done))
        if len(self._moves) == MOST_MOVES:
            self._moves = [self._moves[0], *self._moves[1::2]]

    def seconds_left(self, now: float, total: float) -> float | None:
        """Return how long the rest will take at the speed of the later half of the time.

        None before the second move: what came before the first, such as the start of a model, tells no speed.
        """
        if len(self._moves) < 2:
            return None
        first, last = self._moves[0], self._moves[-1]
        middle = (first[0] + last[0]) / 2
        since = max(index for index, move in enumerate(self._moves[:-1]) if move[0] <= middle)
        seconds, done = last[0] - self._moves[since][0], last[1] - self._moves[since][1]
        between = seconds / (len(self._moves) - 1 - since)  # the next move may be due
        return max(0.0, (total - last[1]) * seconds / done - min(now - last[0], between))


def sentence(view: View) -> str:
    """Return how work stands in words: "embed_items: 4,096 of 9,000 rows, 3 min left"."""
    return ", ".join(filter(None, [f"{view.what}: {amount(view) or duration(view.seconds)}", left(view), view.note]))


def amount(view: View) -> str:
    """Return how much is done: "4,096 of 9,000 rows"; nothing where the whole is not known."""
    if view.total is None:
        return ""
    if view.unit == "bytes":
        return f"{view.done / 1e6:,.1f} of {view.total / 1e6:,.1f} MB"
    return f"{int(view.done + 1e-6):,} of {int(view.total):,} {view.unit}".rstrip()


def left(view: View) -> str:
    """Return how long the rest will take; nothing where that cannot be told."""
    if view.left is None:
        return ""
    return f"{'' if view.soonest is None else f'{duration(view.soonest)} to '}{duration(view.left)} left"


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(41.2), duration(150), duration(9000)
    ('41 s', '2 min', '2.5 h')
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
