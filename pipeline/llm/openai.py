"""A language model behind any endpoint that speaks OpenAI's chat protocol."""

import asyncio
import os
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

import httpx

from data_lake.errors import UserError
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.completion import error_status, is_overflow, read_completion
from pipeline.llm.endpoint import (
    NO_COMPLETION,
    ODD_RETRIES,
    TIMEOUT,
    Answer,
    Endpoint,
    Failed,
    Unreachable,
    all_or_none,
    run_apart,
)
from pipeline.llm.failures import TRY_AGAIN
from pipeline.llm.generator import TOO_LONG, OnReply, Reply, Request, Tokens, no_listener
from pipeline.llm.language_model import LanguageModel, by_prompt
from pipeline.llm.tokens import BY_CHARACTERS, ModelTokens
from pipeline.model_identity import identify
from pipeline.proxies import proxy_variables

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds
FIRST_RETRIES, FIRST_SECONDS = 6, 30.0
"""Tries after the first, at most 31.5 seconds, and when the last one begins, to reach an endpoint that has not answered
yet: the URL may be wrong."""
SLOW_RETRIES, SILENT_RETRIES = 3, 1
"""Tries after one that got no answer in time, where other requests got theirs meanwhile, and where none did."""


class OpenAI(LanguageModel):
    """A `Generator` that sends each request to `base_url`/chat/completions, several at a time.

    A request that is refused, or still fails after the last try, is a reply with its reason: "too_long", "cut",
    "timeout", "connection", "http_503", "no_completion", "refusal", .... An endpoint that cannot be reached, refuses
    the key or does not know the model would fail every request, so it raises a UserError, and so does one that stays
    silent to two requests after another. Once a request has used up its tries while the endpoint answered no other,
    each further one is tried once, until one is answered.

    `last_words` is the endpoint's message, in one line, about the last request that it refused or failed.
    """

    def __init__(self, llm: LLMConfig, cfg: OpenAIConfig) -> None:
        if not llm.model:
            raise UserError("[llm] model is empty: set it to the name under which the endpoint serves the model.")
        super().__init__(llm)
        self.cfg = cfg
        self._endpoint = Endpoint(cfg)
        self._answered = 0
        self._down_since = -1  # the endpoint is down while this equals `_answered`

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name and revision of the model as [llm] has them, and the sampling; not where it is served."""
        sampling = {name: value for name, value in self.sampling.items() if name not in self.cfg.omit}
        extra = {"extra_body": self.cfg.extra_body} if self.cfg.extra_body else {}
        omitted = {"omit": sorted(self.cfg.omit)} if self.cfg.omit else {}
        return {
            "backend": "openai", "model": self.llm.model, "revision": self.llm.revision,
            "sampling": sampling | extra | omitted,
        }  # fmt: skip

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
        """Return one reply per request, in the same order; `on_reply` gets each from another thread.

        An error ends all requests that are under way, and what waits is never sent.
        """
        return run_apart(self._replies(requests, on_reply)) if requests else []

    def close(self, patience: float = 0) -> None:
        """Do nothing: each call closes its connections."""

    async def _replies(self, requests: Sequence[Request], on_reply: OnReply) -> list[Reply]:
        order = iter(by_prompt(requests))
        replies: dict[int, Reply] = {}
        async with self._endpoint.open() as client:

            async def answer_some() -> None:
                for index in order:
                    replies[index] = await self._reply(client, requests[index])
                    on_reply(index, replies[index])

            await all_or_none(answer_some() for _ in range(min(self.cfg.concurrency, len(requests))))
        return [replies[index] for index in range(len(requests))]

    async def _reply(self, client: httpx.AsyncClient, request: Request) -> Reply:
        """Return the reply to a request, which is sent again while that may help."""
        loop, answered_before = asyncio.get_running_loop(), self._answered
        started, attempt = loop.time(), 0
        while True:
            answered_till_now = self._answered
            try:
                return await self._ask(client, request)
            except Failed as failed:
                is_silent = failed.reason == TIMEOUT and self._answered == answered_till_now
                is_last = attempt >= self._retries(failed, is_silent)
                is_down = self._down_since == self._answered
                if isinstance(failed, Unreachable):
                    if is_last or is_down or self._gives_up_early(attempt, loop.time() - started):
                        raise UserError(
                            f"[openai] base_url {self.cfg.base_url} cannot be reached ({failed}). Start the server "
                            "or correct the URL; what it answered is kept."
                        ) from failed
                elif is_silent and is_down:
                    raise UserError(
                        f"[openai] base_url {self.cfg.base_url} is silent: {failed}, to several requests. Restart the "
                        "server, or raise timeout or lower concurrency; what it answered is kept."
                    ) from failed
                elif is_last or is_down:
                    if is_last and failed.retries != 0 and self._answered == answered_before:
                        self._down_since = answered_before
                    self.last_words = str(failed) or self.last_words
                    return Reply(None, failed.reason)
                wait = pause(attempt, failed.wait)
            await asyncio.sleep(wait)
            attempt += 1

    def _retries(self, failed: Failed, is_silent: bool) -> int:
        """Return how often a request that failed so is sent again."""
        most = failed.retries
        if failed.reason == TIMEOUT:
            most = SILENT_RETRIES if is_silent else SLOW_RETRIES
        return self.cfg.retries if most is None else min(self.cfg.retries, most)

    def _gives_up_early(self, attempt: int, seconds: float) -> bool:
        """Say whether an endpoint that was never reached is not tried any more."""
        return not self._answered and (attempt >= FIRST_RETRIES or seconds >= FIRST_SECONDS)

    async def _ask(self, client: httpx.AsyncClient, request: Request) -> Reply:
        """Send a request once. Raises Failed, and UserError where every other request would fail as well."""
        answer = await self._endpoint.ask(client, "POST", "chat/completions", json=self._body(request))
        try:
            reply = self._read(answer, request)
        except Failed as failed:
            self._check_access(failed)
            if failed.status == 404:
                raise UserError(
                    f"[openai] base_url {self.cfg.base_url} has no model {self.llm.model!r} or no chat/completions "
                    f"({_said(failed)}). Correct [llm] model or the URL."
                ) from failed
            self._answered += failed.retries == 0
            raise
        self._answered += 1
        return reply

    def _body(self, request: Request) -> dict[str, Any]:
        # Not `strict`: OpenAI's own strict mode refuses the length limits that hold a small model to its task.
        schema = {"name": request.question.task, "schema": dict(request.schema)}
        body = {
            "model": self.llm.model,
            "messages": list(request.messages),
            self.cfg.max_tokens_name: request.max_tokens,
            **self.sampling,
            **({} if request.is_text else {"response_format": {"type": "json_schema", "json_schema": schema}}),
        }
        return {name: value for name, value in body.items() if name not in self.cfg.omit} | self.cfg.extra_body

    def _check_access(self, failed: Failed) -> None:
        """Raise UserError where a request failed because nobody is let in with this key, or through this proxy."""
        if failed.status in (401, 403):
            named = self.cfg.key_variable  # not shown where it is none: it may be the key itself
            raise UserError(
                f"[openai] base_url {self.cfg.base_url} refuses the key ({_said(failed)}). Put a valid one into the "
                "environment variable "
                + (f"{named}." if named in os.environ else "that key_variable names: it is not set.")
            ) from failed
        if failed.status == 407:
            names = " or ".join(proxy_variables()) or "HTTP_PROXY"
            raise UserError(
                f"The proxy of {names} asks for a password before it lets us to [openai] base_url ({_said(failed)}). "
                "Put one into the variable's URL, or unset it."
            ) from failed

    def _read(self, answer: Answer, request: Request) -> Reply:
        """Return what an answer says to a request. Raises Failed; one with `retries` 0 is refused for good."""
        is_success, error = 200 <= answer.status < 300, error_status(answer.content)
        if is_success:
            reply = read_completion(answer.content, request)
            if reply is not None and (reply.text is not None or error is None):
                return reply
        words = self._endpoint.words(answer)
        status = (error or 0) if is_success else answer.status
        may_pass = status in TRY_AGAIN or status >= 500
        if status not in TRY_AGAIN and not (is_success and error is None) and is_overflow(status, answer.body):
            self.last_words = words
            return Reply(None, TOO_LONG)
        if status == 0:
            reason = NO_COMPLETION if answer.status == 200 else f"http_{answer.status}"
            raise Failed(reason, words or "an empty body", ODD_RETRIES)
        raise Failed(f"http_{status}", words, None if may_pass else 0, answer.headers.get("retry-after"), status)


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


def _said(failed: Failed) -> str:
    """Return the status of a request that failed, and what the endpoint said."""
    return f"{failed.status}: {failed}" if str(failed) else str(failed.status)
