"""Ask a question once, and remember the answer for every run to come."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_lake.keyed_cache import KeyedCache
from pipeline.llm.generator import Generator, OnReply, Reply, Request, Tokens, no_listener, prompt_hash

KEPT = pa.schema(
    [
        ("key", pa.string()),
        ("text", pa.string()),
        ("error", pa.string()),
        ("tokens_in", pa.int32()),
        ("tokens_out", pa.int32()),
        ("tokens_cached", pa.int32()),
    ]
)


class CachedGenerator:
    """A `Generator` that passes on only what the cache cannot answer.

    A reply that `worth_keeping` accepts is kept and comes back as it was, its tokens included; another one comes back
    in this run, and is asked again in the next. With `ask_again` what the cache held before is ignored, and each prompt
    is asked again, once. Counted are the requests `asked` and `reused`, also where one prompt stood twice in a call,
    and `seconds_asking`.
    """

    asks_model = True
    needs_catalogue = False

    def __init__(
        self,
        generator: Generator,
        cache: KeyedCache,
        ask_again: bool = False,
        worth_keeping: Callable[[Reply, Request], bool] = lambda reply, request: reply.error is None,
    ) -> None:
        self._generator, self._cache = generator, cache
        self._ask_again, self._worth_keeping = ask_again, worth_keeping
        self._asked = self._reused = 0
        self._seconds_asking = 0.0
        self._renewed: set[str] = set()
        self._not_kept: dict[str, Reply] = {}

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of whoever is asked, as are `fingerprint`, `tokens` and `last_words`."""
        return self._generator.identity

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """See `Generator`."""
        return self._generator.fingerprint

    @property
    def tokens(self) -> Tokens:
        """See `Generator`."""
        return self._generator.tokens

    @property
    def last_words(self) -> str:
        """See `Generator`."""
        return self._generator.last_words

    def read_catalogue(self, items: pa.Table, item_embeddings: pa.Table) -> None:
        """Hand the catalogue on."""
        self._generator.read_catalogue(items, item_embeddings)

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order."""
        keys = [prompt_hash(request, self.identity) for request in requests]
        replies = self._held(keys)
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in replies}
        if missing:
            started = time.monotonic()
            new = dict(zip(missing, self._generator(list(missing.values())), strict=True))
            self._seconds_asking += time.monotonic() - started
            self._keep(new, missing)
            replies |= new
        self._asked += len(missing)
        self._reused += len(requests) - len(missing)
        for index, key in enumerate(keys):
            on_reply(index, replies[key])
        return [replies[key] for key in keys]

    def counts(self) -> dict[str, Any]:
        """Return `asked`, `reused` and `seconds_asking` since the last call, and what the generator counted."""
        counts = {"asked": self._asked, "reused": self._reused, "seconds_asking": self._seconds_asking}
        self._asked, self._reused, self._seconds_asking = 0, 0, 0.0
        return {**self._generator.counts(), **counts}

    def close(self, patience: float = 15.0) -> None:
        """Close the generator."""
        self._generator.close(patience)

    def _held(self, keys: Sequence[str]) -> dict[str, Reply]:
        held = self._cache.get([key for key in keys if key in self._renewed] if self._ask_again else keys)
        replies = {row.pop("key"): Reply(**row) for row in held.to_pylist()}
        return replies | {key: self._not_kept[key] for key in keys if key in self._not_kept}

    def _keep(self, replies: Mapping[str, Reply], requests: Mapping[str, Request]) -> None:
        kept = {key: reply for key, reply in replies.items() if self._worth_keeping(reply, requests[key])}
        rows = [{"key": key, **vars(reply)} for key, reply in kept.items()]
        self._cache.put(pa.Table.from_pylist(rows, schema=KEPT))
        self._not_kept |= {key: reply for key, reply in replies.items() if key not in kept}
        if self._ask_again:
            self._renewed.update(kept)
