"""A generator behind a cache: a request is sent once, and its reply is used by every later run."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from data_lake.errors import UserError
from data_lake.keyed_cache import KeyedCache
from data_lake.progress import progress
from pipeline.llm.generator import (
    CUT,
    Generator,
    OnReply,
    Reply,
    Request,
    no_listener,
    prompt_hash,
    prompt_hash_with_room,
)
from pipeline.llm.generator_wrapper import GeneratorWrapper
from pipeline.processes.uninterrupted import uninterrupted

KEPT = pa.schema(
    [
        ("key", pa.string()),
        ("text", pa.string()),
        ("error", pa.string()),
        ("tokens_in", pa.int32()),
        ("tokens_out", pa.int32()),
        ("tokens_cached", pa.int32()),
        ("max_tokens", pa.int32()),
    ]
)
"""A kept reply, and how many tokens it was allowed; versions before 0.2 kept that in the key."""

WRITE_SECONDS = 1.0
"""How often new replies are written while others are waited for: a killed run loses those of about so long."""


def kept_replies(cache: KeyedCache, requests: Mapping[str, Request], identity: Mapping[str, Any]) -> dict[str, Reply]:
    """Return the kept replies that answer some requests, by the keys of these (see `prompt_hash`).

    One that was cut answers a request that leaves no more room than it had.
    """
    found = {}
    for row in cache.get(list(requests)).to_pylist():
        key, room = row.pop("key"), row.pop("max_tokens", None)
        if row.get("error") != CUT or (room or 0) >= requests[key].max_tokens:
            found[key] = Reply(**row)
    before = {prompt_hash_with_room(request, identity): key for key, request in requests.items() if key not in found}
    for row in cache.get(list(before)).to_pylist():
        key, _ = row.pop("key"), row.pop("max_tokens", None)
        found[before[key]] = Reply(**row)
    return found


class CachedGenerator(GeneratorWrapper):
    """A `Generator` that passes on only what the cache cannot answer.

    A reply that `worth_keeping` accepts is kept and comes back as it was, its tokens included; another one comes back
    in this run, and is asked again in the next. What is kept is written while other replies are waited for, so that it
    outlasts whatever ends the run; where that fails, as on a full disk, a call raises UserError. With `ask_again` what
    the cache held before is ignored, and each prompt is asked again, once. Counted are the requests `asked` and
    `reused`, also where one prompt stood twice in a call, and `seconds_asking`.
    """

    def __init__(
        self,
        generator: Generator,
        cache: KeyedCache,
        ask_again: bool = False,
        worth_keeping: Callable[[Reply, Request], bool] = lambda reply, request: reply.error is None,
    ) -> None:
        super().__init__(generator)
        self._cache = cache
        self._ask_again, self._worth_keeping = ask_again, worth_keeping
        self._asked = self._reused = 0
        self._seconds_asking = 0.0
        self._renewed: set[str] = set()
        self._not_kept: dict[str, Reply] = {}

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order."""
        keys = [prompt_hash(request, self.identity) for request in requests]
        indices_of = defaultdict(list)
        for index, key in enumerate(keys):
            indices_of[key].append(index)

        def tell(key: str, reply: Reply) -> None:
            for index in indices_of[key]:
                on_reply(index, reply)

        replies = self._held({key: requests[indices[0]] for key, indices in indices_of.items()})
        for key, reply in replies.items():
            tell(key, reply)
        missing = {key: requests[indices[0]] for key, indices in indices_of.items() if key not in replies}
        if missing:
            started = time.monotonic()
            replies |= self._ask(missing, tell)
            self._seconds_asking += time.monotonic() - started
        self._asked += len(missing)
        self._reused += len(requests) - len(missing)
        return [replies[key] for key in keys]

    def counts(self) -> dict[str, Any]:
        """Return `asked`, `reused` and `seconds_asking` since the last call, and what the generator counted."""
        counts = {"asked": self._asked, "reused": self._reused, "seconds_asking": self._seconds_asking}
        self._asked, self._reused, self._seconds_asking = 0, 0, 0.0
        return {**super().counts(), **counts}

    def _held(self, requests: Mapping[str, Request]) -> dict[str, Reply]:
        known = {key: each for key, each in requests.items() if not self._ask_again or key in self._renewed}
        replies = kept_replies(self._cache, known, self.identity)
        return replies | {key: self._not_kept[key] for key in requests if key in self._not_kept}

    def _ask(self, missing: Mapping[str, Request], tell: Callable[[str, Reply], None]) -> dict[str, Reply]:
        """Return the reply to each key's request; each is kept, and handed on, when it arrives."""
        keys = list(missing)
        kept: set[str] = set()
        with progress("asking", len(keys), "requests") as work, _Writer(self._cache) as writer:

            def take(index: int, reply: Reply) -> None:
                key = keys[index]
                if self._worth_keeping(reply, missing[key]):
                    kept.add(key)
                    writer.add({"key": key, **vars(reply), "max_tokens": missing[key].max_tokens})
                tell(key, reply)
                work.advance()

            replies = dict(zip(keys, self._generator(list(missing.values()), take), strict=True))
        self._not_kept |= {key: reply for key, reply in replies.items() if key not in kept}
        if self._ask_again:
            self._renewed.update(kept)
        return replies


class _Writer:
    """Writes rows to a cache, from a thread of its own, every `WRITE_SECONDS` and at the end of the context.

    Once the cache cannot be written, the next row raises the UserError that says why, so that nothing more is paid for.
    What was not written is tried once more at the end.
    """

    def __init__(self, cache: KeyedCache) -> None:
        self._cache = cache
        self._rows: list[dict[str, Any]] = []  # several threads add, one at a time takes away
        self._failure: UserError | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write_often, name="replies", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        uninterrupted(self._write_rest)

    def _write_rest(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._write()

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row; any thread may call."""
        self._rows.append(row)
        if self._failure:
            raise self._failure

    def _write_often(self) -> None:
        while not self._failure and not self._is_over.wait(WRITE_SECONDS):
            try:
                self._write()
            except UserError as failure:
                self._failure = failure

    def _write(self) -> None:
        rows = self._rows[:]
        if not rows:
            return
        try:
            self._cache.put(pa.Table.from_pylist(rows, schema=KEPT))
        except OSError as error:
            raise UserError(
                f"{self._cache.folder}: {len(rows):,} new replies cannot be written ({error}). Make room, or make the "
                "folder writable, and run again: only these are asked again."
            ) from error
        del self._rows[: len(rows)]
