"""Ask a question once, and remember the answer for every run to come."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_lake.keyed_cache import KeyedCache
from pipeline.llm.generator import Generate, Reply, Request, prompt_hash

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
    """A `Generate` that passes on only what the memory cannot answer.

    A reply that `worth_keeping` accepts is kept at once and comes back as it was, its tokens included; another one
    comes back in this run, and is asked again in the next.
    With `ask_again` what the memory held before is ignored, and each prompt is asked anew, once.
    `asked`, `reused`, `seconds_asking`, `tokens_in`, `tokens_out` and `tokens_cached` count what this object did:
    seconds and tokens only of what it asked, `reused` also where one prompt stood twice in a call.
    """

    def __init__(
        self,
        generate: Generate,
        memory: KeyedCache,
        ask_again: bool = False,
        worth_keeping: Callable[[Reply, Request], bool] = lambda reply, request: reply.error is None,
    ) -> None:
        self.generate = generate
        self.memory = memory
        self.worth_keeping = worth_keeping
        self.ask_again = ask_again
        self.seconds_asking = 0.0
        self.asked = self.reused = self.tokens_in = self.tokens_out = self.tokens_cached = 0
        self._renewed: set[str] = set()
        self._not_kept: dict[str, Reply] = {}

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of whoever is asked."""
        return self.generate.identity

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply per request, in the same order."""
        keys = [prompt_hash(request, self.identity) for request in requests]
        replies = self._held(keys)
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in replies}
        if missing:
            started = time.monotonic()
            new = dict(zip(missing, self.generate(list(missing.values())), strict=True))
            self.seconds_asking += time.monotonic() - started
            self._keep(new, missing)
            replies |= new
        self.asked += len(missing)
        self.reused += len(requests) - len(missing)
        return [replies[key] for key in keys]

    def _held(self, keys: Sequence[str]) -> dict[str, Reply]:
        held = self.memory.get([key for key in keys if key in self._renewed] if self.ask_again else keys)
        replies = {row.pop("key"): Reply(**row) for row in held.to_pylist()}
        return replies | {key: self._not_kept[key] for key in keys if key in self._not_kept}

    def _keep(self, replies: Mapping[str, Reply], requests: Mapping[str, Request]) -> None:
        kept = {key: reply for key, reply in replies.items() if self.worth_keeping(reply, requests[key])}
        rows = [{"key": key, **vars(reply)} for key, reply in kept.items()]
        self.memory.put(pa.Table.from_pylist(rows, schema=KEPT))
        self._not_kept |= {key: reply for key, reply in replies.items() if key not in kept}
        if self.ask_again:
            self._renewed.update(kept)
        self.tokens_in += sum(reply.tokens_in for reply in replies.values())
        self.tokens_out += sum(reply.tokens_out for reply in replies.values())
        self.tokens_cached += sum(reply.tokens_cached for reply in replies.values())
