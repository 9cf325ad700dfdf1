"""The kinds of faults: each disturbs one run of a place and returns how that ended, or None where nothing was run."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.stage_spec import StageSpec
from flows.stages import SPECS
from tests.faults.disk import Disk
from tests.faults.world import Ended, Place, World

STAGES = [spec for spec in SPECS if not spec.describes]
MOST_STAGES = 3
FOR_EVER = 10**9
DAY = 86_400
SOON = 120
"""Seconds after which a run that goes on without its server is said to hang, however busy the machine is."""


@dataclass
class Fault:
    """One fault: its number decides everything about it."""

    number: int
    kind: str
    world: World
    disk: Disk | None

    def __post_init__(self) -> None:
        self.random = random.Random(self.number)
        asks = self.kind in ASKING
        firsts = [index for index, spec in enumerate(STAGES) if spec.asks] if asks else range(len(STAGES))
        first, many = self.random.choice(firsts), self.random.randint(1, MOST_STAGES)
        first = 0 if self.kind == "input changed" else first
        self.stages: Sequence[StageSpec] = STAGES[first : first + many]
        self.may_vary = False
        """Whether the last bits of what is made may differ: of vectors they depend on the other texts of a batch."""
        self.story = f"{', '.join(spec.name for spec in self.stages)} to make"

    def unmake(self, place: Place) -> None:
        """Take from a place what some stages made, and the answers that they asked for."""
        for artifact in (artifact for spec in self.stages for artifact in spec.makes):
            shutil.rmtree(place.home / artifact)
        if any(spec.asks for spec in self.stages):
            shutil.rmtree(place.home / "memory" / "replies")

    def strike(self, place: Place) -> Ended | None:
        """Disturb one run."""
        return KINDS[self.kind](self, place)

    def tell(self, words: str) -> None:
        self.story += f"; {words}"

    def call(self) -> int:
        """Return the number of one of the calls that write."""
        return self.random.randint(1, sum(self.world.writes[spec.name] for spec in self.stages) + 5)

    def preloaded(self, place: Place, do: str, at: int, file: Path | None = None) -> Ended:
        self.tell(f"{do} at call {at}")
        assert self.disk is not None
        return place.run(**self.disk.preload(place.home, do, at, file))

    def disturbed(self, place: Place, strike: Callable[[subprocess.Popen[bytes]], None]) -> Ended:
        """Start a run, wait for a moment of it, strike, and wait for its end."""
        seconds = self.random.uniform(0, 2 + self.world.seconds * (len(self.stages) + 4) / (len(STAGES) + 4))
        self.tell(f"after {seconds:.1f} s")
        started = time.monotonic()
        process = place.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            strike(process)
        return place.end(process, started)


def signalled(number: signal.Signals) -> Callable[[Fault, Place], Ended]:
    """Return the kind that sends a signal: to the driver at a call that writes, or to its group at any moment."""

    def strike(fault: Fault, place: Place) -> Ended:
        if fault.disk and fault.random.random() < 0.6:
            return fault.preloaded(place, f"signal {number:d}", fault.call())
        return fault.disturbed(place, lambda process: os.killpg(process.pid, number))

    return strike


def failing(number: int, *counts: int) -> Callable[[Fault, Place], Ended]:
    """Return the kind whose calls fail from one on, some of them or all."""

    def strike(fault: Fault, place: Place) -> Ended:
        return fault.preloaded(place, f"fail {number} {fault.random.choice(counts)}", fault.call())

    return strike


def clock(fault: Fault, place: Place) -> Ended:
    """The clock goes back by an hour to three days."""
    return fault.preloaded(place, f"clock {fault.random.randint(3600, 3 * DAY)}", fault.call())


def input_changed(fault: Fault, place: Place) -> Ended:
    """A line is added to a raw file when it is opened; afterwards the file is as it was."""
    file = place.folder / "sample" / fault.random.choice(["interactions.csv", "items.csv"])
    before = file.read_bytes()
    ended = fault.preloaded(place, "append", fault.random.randint(1, 6), file)
    file.write_bytes(before)
    return ended


def damaged(damage: Callable[[Fault, bytes], bytes]) -> Callable[[Fault, Place], Ended | None]:
    """Return the kind that damages a file of the lake, before any run or after one that was killed."""

    def strike(fault: Fault, place: Place) -> Ended | None:
        ended = None
        if fault.disk and fault.random.random() < 0.5:
            ended = fault.preloaded(place, f"signal {signal.SIGKILL:d}", fault.call())
        files = [path for path in place.home.rglob("*") if path.is_file() and not path.is_symlink()]
        weights = [3 if path.suffix == ".json" or "memory" in path.parts else 1 for path in sorted(files)]
        [path] = fault.random.choices(sorted(files), weights)
        fault.tell(f"damaged {path.relative_to(place.home)}")
        fault.may_vary = path.parent == place.home / "memory" / "vectors"
        path.write_bytes(damage(fault, path.read_bytes()))
        return ended

    return strike


def flip(fault: Fault, content: bytes) -> bytes:
    flipped = bytearray(content)
    for _ in range(fault.random.randint(1, 8) if content else 0):
        flipped[fault.random.randrange(len(content))] ^= fault.random.randint(1, 255)
    return bytes(flipped)


def cut(fault: Fault, content: bytes) -> bytes:
    return content[: fault.random.randrange(len(content))] if content else content


def endpoint_fails(fault: Fault, place: Place) -> Ended:
    """The endpoint answers some requests with an error, or all from one on; after the run it is well."""
    first = fault.random.randint(1, 40)
    last = first + fault.random.choice([1, 4, 30, FOR_EVER])
    status = fault.random.choice([200, 400, 401, 404, 429, 500, 503])
    fault.tell(f"status {status} for requests {first} to {last}")
    place.endpoint.script.fails = lambda number: (status, {}, b"out of order") if first <= number < last else None
    ended = place.run()
    place.endpoint.script.fails = lambda number: None
    return ended


def endpoint_hangs_up(fault: Fault, place: Place) -> Ended:
    """The endpoint breaks the connection of some requests, or of all from one on; after the run it is well."""
    first = fault.random.randint(1, 40)
    last = first + fault.random.choice([1, 4, 30, FOR_EVER])
    fault.tell(f"no answer to requests {first} to {last}")

    def hang_up(number: int) -> None:
        if first <= number < last:
            raise ConnectionAbortedError

    place.endpoint.script.fails = hang_up
    ended = place.run()
    place.endpoint.script.fails = lambda number: None
    return ended


def server_killed(fault: Fault, place: Place) -> Ended:
    """Prefect's own server is killed in the middle of a run, which is told soon afterwards, not after minutes."""

    def strike(process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended
                for each in psutil.Process(process.pid).children(recursive=True):
                    if each.cmdline()[1:4] == ["-m", "prefect", "server"]:
                        each.kill()
                        process.wait(SOON)
                        return
            time.sleep(0.1)

    return fault.disturbed(place, strike)


KINDS: dict[str, Callable[[Fault, Place], Ended | None]] = {
    "SIGKILL": signalled(signal.SIGKILL),
    "disk full": failing(errno.ENOSPC, FOR_EVER),
    "flipped bytes": damaged(flip),
    "endpoint fails": endpoint_fails,
    "SIGTERM": signalled(signal.SIGTERM),
    "no permission": failing(errno.EACCES, FOR_EVER),
    "file cut": damaged(cut),
    "clock goes back": clock,
    "endpoint hangs up": endpoint_hangs_up,
    "SIGINT": signalled(signal.SIGINT),
    "I/O error": failing(errno.EIO, 1, 3, FOR_EVER),
    "file emptied": damaged(lambda fault, content: b""),
    "input changed": input_changed,
    "server killed": server_killed,
}
ASKING = ("endpoint fails", "endpoint hangs up")
PRELOADED = ("disk full", "no permission", "I/O error", "clock goes back", "input changed")
"""The kinds that need disk.c."""
