"""A language model behind the batch interface of OpenAI's shape: files of requests in, files of answers out."""

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import pyarrow as pa

from data_lake.errors import UserError
from data_lake.keyed_cache import KeyedCache
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.generator import OnReply, Reply, Request, no_listener, prompt_hash
from pipeline.llm.openai import FIRST_RETRIES, NO_COMPLETION, TRY_AGAIN, OpenAI, pause, read_completion

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
        replies: dict[str, Reply] = {}
        for batch in self._ended(waiting):
            found = self._results(batch, waiting[batch["id"]])
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
        return {batch: of for batch, of in batches.items() if self._request("GET", _batch(batch)).status_code == 200}

    def _send(self, lines: Mapping[str, bytes]) -> dict[str, list[str]]:
        """Upload a file of requests and start its batch; return its keys under the batch's name."""
        content = {"file": ("requests.jsonl", b"\n".join(lines.values()) + b"\n", "application/jsonl")}
        uploaded = self._object("POST", "files", files=content, data={"purpose": "batch"})
        asked = {"input_file_id": uploaded["id"], "endpoint": PATH, "completion_window": "24h"}
        batch = self._object("POST", "batches", json=asked)["id"]
        try:
            self._remember(lines, batch)
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
                batch = self._object("GET", _batch(name)) | {"id": name}
                if batch.get("status") in ENDED:
                    waiting.remove(name)
                    yield batch
            if waiting:
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_POLL)

    def _results(self, batch: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Reply]:
        """Return the reply to each key's request of a batch that has ended."""
        status = batch["status"]
        if status == "failed":
            self.last_words = self._words(json.dumps({"error": _first_error(batch)}).encode())
        replies = dict.fromkeys(keys, Reply(None, NO_COMPLETION if status == "completed" else f"batch_{status}"))
        for name in ("error_file_id", "output_file_id"):
            for line in self._content(batch[name]).split(b"\n") if batch.get(name) else ():
                key, reply = self._result(line)
                if key in replies:
                    replies[key] = reply
        return replies

    def _content(self, file: Any) -> bytes:
        """Return what a file holds; nothing where the endpoint has it no longer."""
        path = f"files/{quote(str(file), safe='')}/content"
        response = self._request("GET", path)
        if response.status_code not in (200, 404):
            raise self._refusal("GET", path, response)
        return response.content if response.status_code == 200 else b""

    def _result(self, line: bytes) -> tuple[str, Reply]:
        """Return key and reply of a line of an output or error file; the key is empty where it has none."""
        try:
            result = json.loads(line)
            key, response, error = str(result["custom_id"]), result.get("response"), result.get("error")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return "", Reply(None, NO_COMPLETION)
        if isinstance(response, dict) and response.get("status_code") == 200:
            return key, read_completion(response.get("body"))
        if isinstance(response, dict) and isinstance(response.get("status_code"), int):
            return key, self._refused(response["status_code"], json.dumps(response.get("body")).encode())
        self.last_words = self._words(json.dumps({"error": error}).encode())
        code = error.get("code") if isinstance(error, dict) else None
        is_word = isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code)
        return key, Reply(None, code if is_word else "batch_error")

    def _object(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        """Return what the endpoint answers, an object; raise UserError where it refuses."""
        response = self._request(method, path, **content)
        try:
            found = json.loads(response.content)
        except (ValueError, RecursionError):
            found = None
        if response.status_code != 200 or not isinstance(found, dict) or not isinstance(found.get("id"), str):
            raise self._refusal(method, path, response)
        return found

    def _refusal(self, method: str, path: str, response: httpx.Response) -> UserError:
        return UserError(
            f"[openai] base_url {self.cfg.base_url} refuses {method} {path} ({response.status_code}: "
            f"{self._words(response.content)}). Where it has no batch interface set [openai] batch = false."
        )

    def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Return the endpoint's answer; it is asked again while it is busy or away, and then UserError is raised.

        A connection that breaks while a batch is started is not tried again: the batch may have been started.
        """
        client, problem = self._open(), ""
        for attempt in range(self.cfg.retries + 1):
            asked_to_wait = None
            try:
                response = client.request(method, path, **content)
            except httpx.ConnectError as error:
                problem = f"cannot be reached ({error})"
                if attempt >= FIRST_RETRIES and not self._answered:
                    break
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = f"broke off {method} {path} ({type(error).__name__})"
                if (method, path) == ("POST", "batches"):
                    problem += ", and may have started a batch that is not known here: look for it at the provider"
                    break
            else:
                self._count_answer()
                if response.status_code not in TRY_AGAIN and response.status_code < 500:
                    self._check_key(response)
                    return response
                problem = f"answers {response.status_code} to {method} {path} ({self._words(response.content)})"
                asked_to_wait = response.headers.get("retry-after")
            if attempt < self.cfg.retries:
                time.sleep(pause(attempt, asked_to_wait))
        raise UserError(
            f"[openai] base_url {self.cfg.base_url} {problem}. Run again once it answers: the batches that are "
            "known here are waited for, and not paid for twice."
        )

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


def _first_error(batch: Mapping[str, Any]) -> Any:
    """Return why a batch failed: the first of its errors, or all where they have another shape than OpenAI's."""
    errors = batch.get("errors")
    try:
        return errors["data"][0]  # type: ignore[index]
    except (LookupError, TypeError):
        return errors


def _batch(name: str) -> str:
    return f"batches/{quote(name, safe='')}"
