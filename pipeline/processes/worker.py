"""A child process that holds a model: how it is started, spoken to, and ended.

Parent and child speak in frames over pipes of their own, so that whatever a library prints to stdout harms nothing:
it goes to the child's log, whose end is part of the error when the child dies. A third pipe carries nothing: the child
and all that it started end when the parent's end of it closes, however the parent died. (Linux's PR_SET_PDEATHSIG would
end the child with the *thread* that started it.)
"""

import contextlib
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import pyarrow as pa

T = TypeVar("T")
_HEAD = struct.Struct("<cQ")  # kind, length of the body
_JSON, _TABLE = b"J", b"T"
_LOG_TAIL = 6000
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin make every neighbour on the machine many times slower
    "KMP_BLOCKTIME": "0",
    "PYTHONUNBUFFERED": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


class WorkerDied(RuntimeError):
    """The child process ended before it answered."""


class Worker:
    """Runs `python -m module` as a child that answers frames; started by the first message, ended by `close`.

    After `close`, or after the child has died, the next message starts a new one.
    """

    def __init__(self, module: str, config: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        """`config` is the first frame that the child gets; `environment` yields to what the user has set."""
        self.module = module
        self.config = dict(config)
        self.environment = {**_ENVIRONMENT, **(environment or {})}
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        return self._child.process.pid if self._child else None

    def start(self) -> None:
        """Start the child, unless it runs."""
        if self._child is None:
            self._child = _Child(self.module, self.environment)
            self.send(self.config)

    def send(self, message: Any) -> None:
        """Hand a message, JSON or a table, to the child; then `receive` all that its module answers."""
        self.start()
        self._speak(lambda child: _write(child.requests, message))

    def receive(self) -> Any:
        """Wait for the next answer to the last message."""
        return self._speak(_Child.answer)

    def fileno(self) -> int:
        """Return the pipe that answers come through: `select` waits for several workers at once."""
        return self._speak(lambda child: child.replies.fileno())

    def ask(self, message: Any) -> Any:
        """Send a message and wait for the answer."""
        self.send(message)
        return self.receive()

    def close(self, patience: float = 15.0) -> None:
        """End the child: let it finish, and kill it and all that it started once `patience` (seconds) is over."""
        child, self._child = self._child, None
        if child is not None:
            child.end(patience)

    def _speak(self, step: Callable[["_Child"], T]) -> T:
        if self._child is None:
            raise WorkerDied(f"{self.module} is not running: nothing was sent to it.")
        try:
            return step(self._child)
        except (EOFError, BrokenPipeError):
            child, self._child = self._child, None
            code, log = child.end(patience=0)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise WorkerDied(f"{self.module} {how}. The end of its log:\n{log}") from None
        except BaseException:  # Ctrl-C in the middle of a frame: what the child says next would answer nobody
            self.close(patience=0)
            raise


class _Child:
    """One run of the child process and the parent's ends of its pipes."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        request_end, requests = os.pipe()
        replies, reply_end = os.pipe()
        life_end, self.life = os.pipe()
        self.requests, self.replies = os.fdopen(requests, "wb", buffering=0), os.fdopen(replies, "rb", buffering=0)
        self.log: IO[bytes] = tempfile.TemporaryFile("a+b")  # noqa: SIM115  (append: child and parent share it)
        home = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        ends = (request_end, reply_end, life_end)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, ends)],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                env={**environment, **os.environ, "PYTHONPATH": paths},
                pass_fds=ends,
                start_new_session=True,  # a group of its own: Ctrl-C reaches us, and we end the whole group
            )
        finally:
            for end in ends:
                os.close(end)

    def answer(self) -> Any:
        """Wait for the child's next frame."""
        select.select([self.replies], [], [])  # Ctrl-C ends it; a read goes on where polars has taken over SIGINT
        return _read(self.replies)

    def end(self, patience: float) -> tuple[int, str]:
        """Say that no more will come, wait, kill what is left of the group; return exit code and end of the log."""
        try:
            if patience:
                with contextlib.suppress(BrokenPipeError):
                    _write(self.requests, None)
                self._await_end(patience)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)  # before `wait`: until then the id is surely the child's
            self.process.wait()
            os.close(self.life)
            self.requests.close()
            self.replies.close()
        with self.log:
            self.log.seek(max(0, self.log.seek(0, io.SEEK_END) - _LOG_TAIL))
            return self.process.returncode, self.log.read().decode(errors="replace").strip()

    def _await_end(self, patience: float) -> None:
        """Return when the kernel has closed the child's end of the reply pipe, or after `patience` seconds."""
        while select.select([self.replies], [], [], patience)[0]:
            if not os.read(self.replies.fileno(), 1 << 16):
                return


class Link:
    """The child's side: made first thing in its main module from the command line's three pipe numbers."""

    def __init__(self) -> None:
        ends = [int(number) for number in sys.argv[1:4]]
        for end in ends:
            os.set_inheritable(end, False)
        requests, replies, life = ends
        os.register_at_fork(after_in_child=lambda: _close(ends))  # a fork that held our ends would hide our death
        self._requests = os.fdopen(requests, "rb", closefd=False)
        self._replies = os.fdopen(replies, "wb", buffering=0, closefd=False)
        threading.Thread(target=_die_with_parent, args=(life, os.getppid()), daemon=True).start()

    def receive(self) -> Any:
        """Return the next message; None when the parent wants no more."""
        try:
            return _read(self._requests)
        except EOFError:  # without a goodbye: the parent has died
            _kill_group()

    def send(self, message: Any) -> None:
        """Answer the last message."""
        _write(self._replies, message)


def _close(ends: Sequence[int]) -> None:
    for end in ends:
        os.close(end)


def _die_with_parent(life: int, parent: int) -> None:
    while not select.select([life], [], [], 1.0)[0] and os.getppid() == parent:
        pass
    _kill_group()


def _kill_group() -> NoReturn:
    os.killpg(os.getpgrp(), signal.SIGKILL)
    raise SystemExit(1)  # not reached: the group is our own


def _write(pipe: Any, message: Any) -> None:
    if isinstance(message, pa.Table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, message.schema) as writer:
            writer.write_table(message)
        kind, body = _TABLE, memoryview(sink.getvalue())
    else:
        kind, body = _JSON, memoryview(json.dumps(message).encode())
    for part in (memoryview(_HEAD.pack(kind, len(body))), body):
        while part:
            part = part[pipe.write(part) :]


def _read(pipe: Any) -> Any:
    kind, length = _HEAD.unpack(_exactly(pipe, _HEAD.size))
    body = _exactly(pipe, length)
    if kind == _TABLE:
        with pa.ipc.open_stream(body) as reader:
            return reader.read_all()
    return json.loads(body)


def _exactly(pipe: Any, length: int) -> bytes:
    parts, missing = [], length
    while missing:
        part = pipe.read(missing)
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
