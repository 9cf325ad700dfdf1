"""Feed many damaged inputs to what reads them, and count what comes of it: an answer, a refusal, or a fault.

An input is drawn from a generator seeded by the run's seed, the target's name and the input's number, so each can be
made again alone. A fault is any exception but the refusals that a reader documents, more than SECONDS of processor
time, and more than MEMORY bytes above what was in use before.
"""

import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from data_lake.errors import UserError
from pipeline.llm.reading import BadReply

SECONDS = 5
MEMORY = 1 << 30
REFUSALS = (UserError, BadReply)
"""What a reader may raise: a mistake that a person can fix, and the reason that is kept with the row of a reply."""


class TookTooLong(BaseException):
    """An input took more than SECONDS of processor time; no reader catches this."""


@dataclass(frozen=True)
class Target:
    """Something that reads what strangers write: how to make a damaged input, and what reads it in a folder."""

    name: str
    share: int
    """Of the inputs of a run, in thousandths."""
    make: Callable[[random.Random], Any]
    feed: Callable[[Any, Path], object]
    """Returns None where it finds nothing that can be read."""


@dataclass
class Outcome:
    """What came of the inputs of one target."""

    name: str
    accepted: int = 0
    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """By what and where."""
    examples: dict[str, str] = field(default_factory=dict)
    """Of each fault the first input's number, and the traceback."""

    @property
    def inputs(self) -> int:
        return self.accepted + self.refused + self.faults.total()


def run(target: Target, count: int, seed: int = 0, first: int = 0) -> Outcome:
    """Feed the inputs `first`, `first + 1`, ... to a target."""
    outcome = Outcome(target.name)
    with scratch() as folder:
        for number in range(first, first + count):
            rng = random.Random(f"{seed} {target.name} {number}")
            made = target.make(rng)
            feed(outcome, str(number), lambda made=made: target.feed(made, folder))
    return outcome


def feed(outcome: Outcome, name: str, read: Callable[[], object]) -> None:
    """Let one input be read, and count what comes of it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings(), _time_limit():
            warnings.simplefilter("ignore")
            is_refused = read() is None
    except REFUSALS:
        outcome.refused += 1
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
        outcome.faults[what] += 1
        outcome.examples.setdefault(what, f"input {name}\n{traceback.format_exc(limit=-6)}")
    else:
        outcome.refused += is_refused
        outcome.accepted += not is_refused
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > MEMORY // 1024:
        outcome.faults["memory"] += 1
        outcome.examples.setdefault("memory", f"input {name}")


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as text, a line each and one for all."""
    total = Outcome("all")
    for each in outcomes:
        total.accepted += each.accepted
        total.refused += each.refused
        total.faults += each.faults
    lines = [f"{'target':<14}{'inputs':>11}{'accepted':>11}{'refused':>11}{'faults':>9}"]
    for each in (*outcomes, total):
        counts = (each.inputs, each.accepted, each.refused)
        lines.append(f"{each.name:<14}" + "".join(f"{count:>11,}" for count in counts) + f"{each.faults.total():>9,}")
    return "\n".join(lines)


def limit_memory() -> None:
    """Let no allocation pass four times MEMORY above what is mapped now, so that a fault does not take the machine."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 4 * MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder, in memory where there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TookTooLong

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
