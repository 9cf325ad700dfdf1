"""A child process that holds a model: how it is started, spoken to, and ended.

Parent and child speak in frames over pipes of their own, so that whatever a library prints to stdout harms nothing:
it goes to the child's log, whose end is part of the error when the child dies.
"""

import contextlib
import io
import json
import os
import select
import struct
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, TypeVar

import pyarrow as pa

from pipeline.processes.child import Child, ending

T = TypeVar("T")
_HEAD = struct.Struct("<cQ")  # kind, length of the body
_JSON, _TABLE = b"J", b"T"
_LOG_TAIL = 6000
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class WorkerDied(RuntimeError):
    """The child process ended before it answered."""


class Worker:
    """Runs `python -m module` as a child that answers frames; started by the first message, ended by `close`.

    After `close`, or after the child has died, the next message starts a new one.
    """

    def __init__(
        self,
        module: str,
        config: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
        before_start: Callable[[], None] = lambda: None,
    ) -> None:
        """`config` is the first frame that the child gets; `environment` yields to what the user has set.

        `before_start` is called just before each start of a child.
        """
        self.module = module
        self.config = dict(config)
        self.environment = {**_ENVIRONMENT, **(environment or {})}
        self.before_start = before_start
        self._link: _ParentLink | None = None

    @property
    def pid(self) -> int | None:
        """Id of the process that stands between us and the child, and ends with it; None while there is none."""
        return self._link.child.process.pid if self._link else None

    def start(self) -> None:
        """Start the child, unless it runs."""
        if self._link is None:
            self.before_start()
            self._link = _ParentLink(self.module, self.environment)
            self.send(self.config)

    def send(self, message: Any) -> None:
        """Hand a message, JSON or a table, to the child; then `receive` all that its module answers."""
        self.start()
        self._speak(lambda link: _write(link.requests, message))

    def receive(self) -> Any:
        """Wait for the next answer to the last message."""
        return self._speak(_ParentLink.answer)

    def fileno(self) -> int:
        """Return the pipe that answers come through: `select` waits for several workers at once."""
        return self._speak(lambda link: link.replies.fileno())

    def ask(self, message: Any) -> Any:
        """Send a message and wait for the answer."""
        self.send(message)
        return self.receive()

    def close(self, patience: float = 15.0) -> None:
        """End the child: let it finish, and kill it and all that it started once `patience` (seconds) is over."""
        link, self._link = self._link, None
        if link is not None:
            link.end(patience)

    def _speak(self, step: Callable[["_ParentLink"], T]) -> T:
        if self._link is None:
            raise WorkerDied(f"{self.module} is not running: nothing was sent to it.")
        try:
            return step(self._link)
        except (EOFError, BrokenPipeError):
            link, self._link = self._link, None
            code, log = link.end(patience=0)
            raise WorkerDied(f"{self.module} ended with {ending(code)}. The end of its log:\n{log}") from None
        except BaseException:  # Ctrl-C in the middle of a frame: what the child says next would answer nobody
            self.close(patience=0)
            raise


class _ParentLink:
    """One run of the child process and the parent's ends of its pipes."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        request_end, requests = os.pipe()
        replies, reply_end = os.pipe()
        self.requests, self.replies = os.fdopen(requests, "wb", buffering=0), os.fdopen(replies, "rb", buffering=0)
        self.log: IO[bytes] = tempfile.TemporaryFile("a+b")  # noqa: SIM115  (append: child and parent share it)
        ends = (request_end, reply_end)
        try:
            self.child = Child(
                [sys.executable, "-m", module, *map(str, ends)],
                stdout=self.log,
                stderr=self.log,
                environment=environment,
                pass_fds=ends,
                patience=0,
            )
        finally:
            for end in ends:
                os.close(end)

    def answer(self) -> Any:
        """Wait for the child's next frame."""
        select.select([self.replies], [], [])  # Ctrl-C ends it; a read goes on where polars has taken over SIGINT
        return _read(self.replies)

    def end(self, patience: float) -> tuple[int, str]:
        """Say that no more will come, wait, end what is left; return exit code and end of the log."""
        try:
            if patience:
                with contextlib.suppress(BrokenPipeError):
                    _write(self.requests, None)
                self._await_end(patience)
        finally:
            self.child.end()
            self.requests.close()
            self.replies.close()
        with self.log:
            self.log.seek(max(0, self.log.seek(0, io.SEEK_END) - _LOG_TAIL))
            return self.child.wait(), self.log.read().decode(errors="replace").strip()

    def _await_end(self, patience: float) -> None:
        """Return when the child is gone and its end of the reply pipe closed, or after `patience` seconds."""
        while select.select([self.replies], [], [], patience)[0]:
            if not os.read(self.replies.fileno(), 1 << 16):
                return


class Link:
    """The child's side: made first thing in its main module from the command line's two pipe numbers."""

    def __init__(self) -> None:
        ends = [int(number) for number in sys.argv[1:3]]
        for end in ends:
            os.set_inheritable(end, False)
        requests, replies = ends
        os.register_at_fork(after_in_child=lambda: _close(ends))  # a fork that held our ends would hide our death
        self._requests = os.fdopen(requests, "rb", closefd=False)
        self._replies = os.fdopen(replies, "wb", buffering=0, closefd=False)

    def receive(self) -> Any:
        """Return the next message; None when the parent wants no more, or is gone."""
        try:
            return _read(self._requests)
        except EOFError:
            return None

    def send(self, message: Any) -> None:
        """Answer the last message."""
        _write(self._replies, message)


def _close(ends: Sequence[int]) -> None:
    for end in ends:
        os.close(end)


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
