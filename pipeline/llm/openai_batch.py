"""A language model behind the batch interface of OpenAI's shape: files of requests in, files of answers out."""

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from data_lake.errors import UserError
from data_lake.keyed_cache import KeyedCache
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.completion import error_status
from pipeline.llm.endpoint import NO_COMPLETION, Answer, Failed, Unreachable, run_apart
from pipeline.llm.failures import TRY_AGAIN
from pipeline.llm.generator import OnReply, Reply, Request, no_listener, prompt_hash
from pipeline.llm.openai import OpenAI, pause
from pipeline.processes.uninterrupted import uninterrupted

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
"""What one file may hold."""
FIRST_POLL, LONGEST_POLL = 1.0, 60.0  # seconds
ENDED = ("completed", "failed", "expired", "cancelled")
PATH = "/v1/chat/completions"


class OpenAIBatch(OpenAI):
    """A `Generator` that uploads the requests of a call as files, starts a batch for each, and waits for their ends.

    The batch of each request is remembered before it is waited for: a later run that asks the same of the same
    endpoint waits for that batch and sends nothing. A batch that ends early keeps what it answered; its other requests
    fail with "batch_expired", "batch_cancelled" or "batch_failed". A request that fails for itself has the reason that
    it has without batches.
    """

    def __init__(self, llm: LLMConfig, cfg: OpenAIConfig) -> None:
        super().__init__(llm, cfg)
        self._cache: KeyedCache | None = None
        self._taken: list[str] = []  # the keys whose replies were handed on, and that are remembered still

    def remember_in(self, cache: KeyedCache) -> None:
        """Take the cache that holds the batch of each request: rows of key and batch, "" once it is handed on."""
        self._cache = cache

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order; `on_reply` gets those of a batch when that has ended."""
        self._forget_taken()
        keys = [prompt_hash(request, self.identity) for request in requests]
        waiting = self._sent_before(keys)
        known = {key for batch in waiting.values() for key in batch}
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        for lines in files(_line(key, self._body(request)) for key, request in new.items()):
            waiting |= self._send(lines)
        indices = defaultdict(list)
        for index, key in enumerate(keys):
            indices[key].append(index)
        asked = dict(zip(keys, requests, strict=True))
        replies: dict[str, Reply] = {}
        for batch in self._ended(waiting):
            found = self._results(batch, {key: asked[key] for key in waiting[batch["id"]]})
            replies |= found
            for key, reply in found.items():
                for index in indices[key]:
                    on_reply(index, reply)
        self._taken = list(replies)
        return [replies[key] for key in keys]

    def close(self, patience: float = 0) -> None:
        """Close the connections; batches go on, and those whose replies were handed on are forgotten."""
        self._forget_taken()
        super().close(patience)

    def _sent_before(self, keys: Sequence[str]) -> dict[str, list[str]]:
        """Return the keys of each batch that is remembered and that the endpoint still knows."""
        if self._cache is None:
            return {}
        key_of = {self._remembered_as(key): key for key in keys}
        batches = defaultdict(list)
        for row in self._cache.get(list(key_of)).to_pylist():
            if row["batch"]:
                batches[row["batch"]].append(key_of[row["key"]])
        return {batch: of for batch, of in batches.items() if self._request("GET", _batch(batch)).status == 200}

    def _send(self, lines: Mapping[str, bytes]) -> dict[str, list[str]]:
        """Upload a file of requests and start its batch; return its keys under the batch's name."""
        content = {"file": ("requests.jsonl", b"\n".join(lines.values()) + b"\n", "application/jsonl")}
        size = sum(map(len, lines.values()))
        uploaded = self._object("POST", "files", files=content, data={"purpose": "batch"}, is_file=True, size=size)
        asked = {"input_file_id": uploaded["id"], "endpoint": PATH, "completion_window": "24h"}
        batch = self._object("POST", "batches", json=asked)["id"]
        try:
            uninterrupted(partial(self._remember, lines, batch))
        except OSError as error:
            raise UserError(
                f"The batch {batch} was sent, and its name cannot be kept ({error}): the next run pays for it again. "
                "Make room, and cancel it at the provider."
            ) from error
        return {batch: list(lines)}

    def _ended(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Wait for the batches, and return each when it has ended."""
        waiting, wait = list(names), FIRST_POLL
        while waiting:
            for name in list(waiting):
                batch = self._object("GET", _batch(name), "status") | {"id": name}
                if batch["status"] in ENDED:
                    waiting.remove(name)
                    yield batch
            if waiting:
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_POLL)

    def _results(self, batch: Mapping[str, Any], asked: Mapping[str, Request]) -> dict[str, Reply]:
        """Return the reply to each key's request of a batch that has ended."""
        status = batch["status"]
        if status == "failed":
            self.last_words = self._endpoint.words(_answer(400, {"error": _first_error(batch)}))
        replies = dict.fromkeys(asked, Reply(None, NO_COMPLETION if status == "completed" else f"batch_{status}"))
        for name in ("error_file_id", "output_file_id"):
            for line in self._content(batch[name]).split(b"\n") if batch.get(name) else ():
                key, result = _result(line)
                if key in replies:
                    replies[key] = self._reply_of(result, asked[key])
        return replies

    def _content(self, file: Any) -> bytes:
        """Return what a file holds; nothing where the endpoint has it no longer."""
        path = f"files/{quote(str(file), safe='')}/content"
        answer = self._request("GET", path, is_file=True)
        if answer.status not in (200, 404):
            raise self._refusal("GET", path, answer)
        return answer.body if answer.status == 200 else b""

    def _reply_of(self, result: Mapping[str, Any], request: Request) -> Reply:
        """Return the reply in a line of an output or error file."""
        response, error = result.get("response"), result.get("error")
        if isinstance(response, dict) and isinstance(response.get("status_code"), int):
            try:
                return self._read(_answer(response["status_code"], response.get("body")), request)
            except Failed as failed:
                self.last_words = str(failed)
                return Reply(None, failed.reason)
        self.last_words = self._endpoint.words(_answer(400, {"error": error}))
        code = error.get("code") if isinstance(error, dict) else None
        is_word = isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code)
        return Reply(None, code if is_word else "batch_error")

    def _object(self, method: str, path: str, named: str = "id", **content: Any) -> dict[str, Any]:
        """Return what the endpoint answers, an object with a text of this name; raise UserError where it refuses."""
        answer = self._request(method, path, **content)
        found = answer.content
        if answer.status != 200 or not isinstance(found, dict) or not isinstance(found.get(named), str):
            raise self._refusal(method, path, answer)
        return found

    def _refusal(self, method: str, path: str, answer: Answer) -> UserError:
        return UserError(
            f"[openai] base_url {self.cfg.base_url} refuses {method} {path} ({answer.status}: "
            f"{self._endpoint.words(answer)}). Where it has no batch interface set [openai] batch = false."
        )

    def _request(self, method: str, path: str, **content: Any) -> Answer:
        """Return the endpoint's answer; it is asked again while it is busy or away, and then UserError is raised.

        A connection that breaks while a batch is started is not tried again: the batch may have been started.
        """
        started, attempt = time.monotonic(), 0
        while True:
            try:
                answer = run_apart(self._send_once(method, path, **content))
                self._answered += 1
                return answer
            except Failed as failed:
                self._check_access(failed)
                problem = self._problem(failed, f"{method} {path}")
                is_known = isinstance(failed, Unreachable) or failed.status
                if (method, path) == ("POST", "batches") and not is_known:
                    problem += ", and may have started a batch that is not known here: look for it at the provider"
                    break
                is_early = isinstance(failed, Unreachable) and self._gives_up_early(attempt, time.monotonic() - started)
                if is_early or attempt >= self._retries(failed, is_silent=True):
                    break
                wait = pause(attempt, failed.wait)
            time.sleep(wait)
            attempt += 1
        raise UserError(
            f"[openai] base_url {self.cfg.base_url} {problem}. Run again once it answers: the batches that are "
            "known here are waited for, and not paid for twice."
        )

    async def _send_once(self, method: str, path: str, **content: Any) -> Answer:
        """Send a request once. Raises Failed, also where trying again may help."""
        async with self._endpoint.open() as client:
            answer = await self._endpoint.ask(client, method, path, **content)
        status = answer.status if answer.status != 200 else error_status(answer.content) or 200
        if status in (401, 403, 407) or status in TRY_AGAIN or status >= 500:
            words = self._endpoint.words(answer)
            raise Failed(f"http_{status}", words, None, answer.headers.get("retry-after"), status)
        return answer

    def _problem(self, failed: Failed, call: str) -> str:
        """Return what a person reads of a call that failed."""
        if isinstance(failed, Unreachable):
            return f"cannot be reached ({failed})"
        if failed.status:
            return f"answers {failed.status} to {call} ({failed})"
        return f"broke off {call} ({failed})"

    def _remembered_as(self, key: str) -> str:
        return f"{self.cfg.base_url} {key}"

    def _remember(self, keys: Iterable[str], batch: str) -> None:
        if self._cache is not None:
            remembered = [self._remembered_as(key) for key in keys]
            self._cache.put(pa.table({"key": remembered, "batch": [batch] * len(remembered)}))

    def _forget_taken(self) -> None:
        """Forget the batches of the replies that were handed on: who asks the same again wants it answered anew."""
        taken, self._taken = self._taken, []
        if taken:
            self._remember(taken, "")


def files(lines: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, bytes]]:
    """Divide the lines, in order and each under its key, into files that a batch may have."""
    found: dict[str, bytes] = {}
    size = 0
    for key, line in lines:
        if found and (len(found) == MOST_REQUESTS or size + len(line) + 1 > MOST_BYTES):
            yield found
            found, size = {}, 0
        found[key] = line
        size += len(line) + 1
    if found:
        yield found


def _line(key: str, body: Mapping[str, Any]) -> tuple[str, bytes]:
    asked = {"custom_id": key, "method": "POST", "url": PATH, "body": dict(body)}
    return key, json.dumps(asked).encode()


def _result(line: bytes) -> tuple[str, Mapping[str, Any]]:
    """Return the key of a line of an output or error file, and the line; the key is empty where it has none."""
    try:
        result = json.loads(line)
        return str(result["custom_id"]), result
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", {}


def _answer(status: int, content: Any) -> Answer:
    """Return what a line of a file holds as an answer of its own."""
    return Answer(status, json.dumps(content).encode())


def _first_error(batch: Mapping[str, Any]) -> Any:
    """Return why a batch failed: the first of its errors, or all where they have another shape than OpenAI's."""
    errors = batch.get("errors")
    try:
        return errors["data"][0]  # type: ignore[index]
    except (LookupError, TypeError):
        return errors


def _batch(name: str) -> str:
    return f"batches/{quote(name, safe='')}"
