"""A language model behind any endpoint that speaks OpenAI's chat protocol."""

import json
import os
import random
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from data_lake.errors import UserError
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.generator import CUT, TOO_LONG, OnReply, Reply, Request, Tokens, no_listener
from pipeline.llm.language_model import LanguageModel, by_prompt
from pipeline.llm.tokens import BY_CHARACTERS, ModelTokens
from pipeline.model_identity import identify

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds
TRY_AGAIN = frozenset({408, 409, 429})
"""Statuses after which the same request may succeed, beside all from 500 on."""
FIRST_RETRIES = 6
"""Tries after the first, at most 31.5 seconds, to reach an endpoint that has not answered yet: the URL may be wrong."""
WORDS = 200
"""Characters that are kept of the message about a request that the endpoint refuses."""
NO_COMPLETION = "no_completion"
"""The error of a reply that is none of the chat protocol's."""


class OpenAI(LanguageModel):
    """A `Generator` that sends each request to `base_url`/chat/completions, several at a time.

    A request that is refused, or still fails after the last try, is a reply with its reason: "too_long", "cut",
    "timeout", "connection", "http_503", "no_completion", .... An endpoint that cannot be reached, refuses the key or
    does not know the model would fail every request, so it raises a UserError. Once a request has used up its tries
    while the endpoint answered no other, each further one is tried once, until one is answered.

    `last_words` is the endpoint's message, in one line, about the last request that it refused or failed.
    """

    def __init__(self, llm: LLMConfig, cfg: OpenAIConfig) -> None:
        if not llm.model:
            raise UserError("[llm] model is empty: set it to the name under which the endpoint serves the model.")
        _check_url(cfg.base_url)
        super().__init__(llm)
        self.cfg = cfg
        self._answered = 0
        self._down_since = -1  # the endpoint is down while this equals `_answered`
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name and revision of the model as [llm] has them, and the sampling; not where it is served."""
        extra = {"extra_body": self.cfg.extra_body} if self.cfg.extra_body else {}
        sampling = self.sampling | extra
        return {"backend": "openai", "model": self.llm.model, "revision": self.llm.revision, "sampling": sampling}

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """As for every language model, and the tokenizer that the settings name."""
        folder = self.cfg.tokenizer
        tokenizer = identify(folder, None, section="openai").revision if folder else None
        return {**super().fingerprint, "tokenizer": tokenizer}

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer that the settings name; without one four characters are a token."""
        folder = self.cfg.tokenizer
        return ModelTokens(folder, None, self.llm.max_model_len) if folder else BY_CHARACTERS

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order; `on_reply` gets each from a thread of its own."""
        if not requests:
            return []
        order = by_prompt(requests)
        replies: dict[int, Reply] = {}

        def answer(index: int) -> None:
            replies[index] = self._ask(requests[index])
            on_reply(index, replies[index])

        self._stopping = threading.Event()
        pool = ThreadPoolExecutor(min(self.cfg.concurrency, len(requests)), "openai")
        try:
            for done in as_completed([pool.submit(answer, index) for index in order]):
                done.result()
        except BaseException:  # what is under way fails at once, what waits is never sent
            self._stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            self.close()
            raise
        pool.shutdown()
        return [replies[i] for i in range(len(requests))]

    def close(self, patience: float = 0) -> None:
        """Close the connections; the next request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _ask(self, request: Request) -> Reply:
        client, body, stopping = self._open(), self._body(request), self._stopping
        answered_before = self._answered
        for attempt in range(self.cfg.retries + 1):
            used_up = attempt == self.cfg.retries
            last = used_up or self._down_since == self._answered
            words, asked_to_wait = "", None
            try:
                response = client.post("chat/completions", json=body)
            except httpx.ConnectError as error:
                if last or (attempt >= FIRST_RETRIES and not self._answered):
                    raise UserError(
                        f"[openai] base_url {self.cfg.base_url} cannot be reached ({error}). Start the server "
                        "or correct the URL; what it answered is kept."
                    ) from error
                reason = "connection"
            except httpx.TimeoutException:
                reason = "timeout"
            except httpx.TransportError:
                reason = "connection"
            except (httpx.HTTPError, httpx.InvalidURL):  # a wrong Content-Encoding, an odd Location
                self._count_answer()
                return Reply(None, NO_COMPLETION)
            else:
                if response.status_code not in TRY_AGAIN and response.status_code < 500:
                    self._count_answer()
                    return self._read(response)
                reason, words = f"http_{response.status_code}", self._words(response.content)
                asked_to_wait = response.headers.get("retry-after")
            if used_up and self._answered == answered_before:
                self._down_since = answered_before
            if last:
                self.last_words = words or self.last_words
                return Reply(None, reason)
            if stopping.wait(pause(attempt, asked_to_wait)):
                break
        raise CancelledError

    def _count_answer(self) -> None:
        with self._lock:
            self._answered += 1

    def _open(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                key = os.environ.get(self.cfg.key_variable, "").strip()
                if not (key.isascii() and key.isprintable()):
                    raise UserError(
                        f"The environment variable {self.cfg.key_variable} holds no key: it has characters that no "
                        "header may have. Put the key alone into it."
                    )
                many = self.cfg.concurrency
                self._client = httpx.Client(
                    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # an odd one would spoil all requests
                    base_url=self.cfg.base_url,
                    headers={"Authorization": f"Bearer {key}"} if key else {},
                    timeout=self.cfg.timeout,
                    limits=httpx.Limits(max_connections=many, max_keepalive_connections=many),
                )
            return self._client

    def _body(self, request: Request) -> dict[str, Any]:
        # Not `strict`: OpenAI's own strict mode refuses the length limits that hold a small model to its task.
        schema = {"name": request.question.task, "schema": dict(request.schema)}
        return {
            "model": self.llm.model,
            "messages": list(request.messages),
            "max_tokens": request.max_tokens,
            **self.sampling,
            **({} if request.is_text else {"response_format": {"type": "json_schema", "json_schema": schema}}),
            **self.cfg.extra_body,
        }

    def _check_key(self, response: httpx.Response) -> None:
        if response.status_code in (401, 403):
            named = self.cfg.key_variable  # not shown where it is none: it may be the key itself
            raise UserError(
                f"[openai] base_url {self.cfg.base_url} refuses the key ({response.status_code}). Put a valid one into "
                "the environment variable "
                + (f"{named}." if named in os.environ else "that key_variable names: it is not set.")
            )

    def _read(self, response: httpx.Response) -> Reply:
        status, url = response.status_code, self.cfg.base_url
        self._check_key(response)
        if status == 404:
            raise UserError(
                f"[openai] base_url {url} has no model {self.llm.model!r} or no chat/completions (404). Correct "
                "[llm] model or the URL."
            )
        if status != 200:
            return self._refused(status, response.content)
        try:
            return read_completion(json.loads(response.content))
        except (ValueError, RecursionError):
            return Reply(None, NO_COMPLETION)

    def _refused(self, status: int, body: bytes) -> Reply:
        """Return the reply to a request that was answered with another status than 200."""
        if "context length" in _text(body):
            return Reply(None, TOO_LONG)
        self.last_words = self._words(body)
        return Reply(None, f"http_{status}")

    def _words(self, body: bytes) -> str:
        """Return why a request failed: the message of OpenAI's error, else the body; in one line, without the key."""
        try:
            said = str(json.loads(body)["error"]["message"])
        except (ValueError, LookupError, TypeError, RecursionError):
            said = _text(body)
        text = " ".join(said.encode(errors="replace").decode().split())
        key = self._open().headers.get("Authorization", "").removeprefix("Bearer ")
        return (text.replace(key, "[key]") if key else text)[:WORDS]


def read_completion(answer: Any) -> Reply:
    """Return what a chat completion says, whatever an endpoint sent as one."""
    try:
        choice, usage = answer["choices"][0], answer.get("usage")
        text, finished = choice["message"]["content"], choice["finish_reason"]
    except (LookupError, TypeError, AttributeError):
        return Reply(None, NO_COMPLETION)
    tokens_in, tokens_out = _entry(usage, "prompt_tokens"), _entry(usage, "completion_tokens")
    tokens_cached = _entry(_entry(usage, "prompt_tokens_details"), "cached_tokens")
    return Reply.read(text, _reason(finished), tokens_in, tokens_out, tokens_cached)


def _reason(finished: Any) -> str | None:
    """Return why an answer is none: None where it came to its end."""
    if finished == "stop":
        return None
    if finished == "length":
        return CUT
    named = isinstance(finished, str) and re.fullmatch(r"[a-z_]{1,40}", finished)
    return finished if named else NO_COMPLETION


def _entry(value: Any, name: str) -> Any:
    """Return an entry of a JSON object; None where there is none, or where it is no object."""
    return value.get(name) if isinstance(value, dict) else None


def pause(attempt: int, asked_to_wait: str | None) -> float:
    """Return seconds to wait: what the server asks for, else twice as long each time; both spread."""
    wait = _seconds(asked_to_wait or "")
    if wait is None:
        return random.uniform(0.5, 1) * min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)
    return min(wait, LONGEST_WAIT) * random.uniform(1, 1.2)


def _seconds(retry_after: str) -> float | None:
    """Read Retry-After: a number of seconds, or a date; None where it is neither."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _text(body: bytes) -> str:
    """Return a body as UTF-8, whatever charset it claims: not all that Python knows decode to text."""
    return body.decode(errors="replace")


def _check_url(url: str) -> None:
    """Refuse what is no URL, and one that carries a secret: it would show in errors and logs."""
    try:
        known = httpx.URL(url)
    except httpx.InvalidURL:
        known = httpx.URL()
    if known.scheme not in ("http", "https") or not known.host:
        raise UserError("[openai] base_url is no URL: set it to one such as http://127.0.0.1:8000/v1.")
    if known.userinfo or known.query:
        raise UserError(
            "[openai] base_url holds a password or a query: leave them out; the key belongs into the environment "
            "variable that key_variable names."
        )
