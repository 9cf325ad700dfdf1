"""HTTP to one endpoint: each request has a deadline, each answer a largest size, and no message holds the key."""

import asyncio
import json
import os
import threading
import zlib
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ssl import SSLContext
from typing import Any, TypeVar

import httpx

from data_lake.errors import UserError
from data_lake.messages import escape_control, hide_credentials
from pipeline.config import OpenAIConfig
from pipeline.proxies import check_proxies, is_loopback, through_proxy

T = TypeVar("T")

CONNECT_SECONDS = 10.0
"""The longest wait for a connection: a host that drops packets never refuses one."""
LISTEN_SECONDS = 0.2
"""How often a Ctrl-C is looked for: beside Prefect, whose loops change how signals act, none interrupts a long wait."""
CANCEL_SECONDS = 5.0
"""The longest wait for requests that are cancelled."""
LARGEST, LARGEST_FILE = 2**23, 2**29
"""Bytes that an answer may have, unpacked, and a file of answers."""
SLOWEST = 2**16
"""Bytes a second at which a file is still worth waiting for."""
WORDS = 200
"""Characters that are kept of the message about a request that failed."""
MOST_READ = 20_000
"""Bytes of a body in which that message is looked for, where it is no JSON."""
NO_COMPLETION = "no_completion"
"""The reason of an answer that is none of the chat protocol's."""
TIMEOUT = "timeout"
"""The reason of a request that got no whole answer in time."""
ODD_RETRIES = 3
"""Tries after the first where the answer is none of the protocol's: a gateway that starts says such things."""


class Failed(Exception):
    """A request that failed. `reason` is a word, the message what a person reads; both may be empty of the endpoint's.

    `retries` is how often it may be worth to try again, None as often as the settings say; `wait` is the endpoint's
    Retry-After.
    """

    def __init__(
        self, reason: str, words: str, retries: int | None = None, wait: str | None = None, status: int = 0
    ) -> None:
        super().__init__(words)
        self.reason, self.retries, self.wait, self.status = reason, retries, wait, status


class Unreachable(Failed):
    """No connection."""


@dataclass(frozen=True)
class Answer:
    """What an endpoint answered; `content` is the JSON of the body, None where it holds none."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def content(self) -> Any:
        try:
            return json.loads(self.body, strict=False)  # a string may hold raw control characters
        except (ValueError, RecursionError):
            return None


class Endpoint:
    """The endpoint of the settings. Raises UserError where its URL is none or carries a secret."""

    def __init__(self, cfg: OpenAIConfig) -> None:
        _check_url(cfg.base_url)
        self.cfg = cfg
        self._host = httpx.URL(cfg.base_url).host

    def open(self) -> httpx.AsyncClient:
        """Return a client, to be closed in the loop that uses it. Raises UserError for a key or proxy that is none."""
        if not is_loopback(self._host):
            check_proxies()
        many, key = self.cfg.concurrency, self._key()
        return httpx.AsyncClient(
            base_url=self.cfg.base_url,
            headers={"Accept-Encoding": "gzip"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # an odd one would spoil all requests
            timeout=httpx.Timeout(self.cfg.timeout, connect=min(CONNECT_SECONDS, self.cfg.timeout)),
            limits=httpx.Limits(max_connections=many, max_keepalive_connections=many),
            verify=self._tls,
            trust_env=not is_loopback(self._host),
        )

    async def ask(
        self, client: httpx.AsyncClient, method: str, path: str, is_file: bool = False, size: int = 0, **content: Any
    ) -> Answer:
        """Return the answer, which must be whole within [openai] timeout; a file may be as slow as `SLOWEST`.

        `size` are the bytes sent. Raises Failed.
        """
        seconds, started = self.cfg.timeout, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds + size / SLOWEST) as deadline:
                async with client.stream(method, path, **content) as response:
                    packed = bytearray()
                    async for chunk in response.aiter_raw():
                        packed += chunk
                        _check_size(packed, is_file)
                        if is_file:
                            deadline.reschedule(started + seconds + (size + len(packed)) / SLOWEST)
                    body = _unpacked(packed, response.headers.get("content-encoding", ""), is_file)
                    return Answer(response.status_code, body, response.headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise Unreachable("connection", f"{_root(error)}{through_proxy(self._host)}") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Failed(TIMEOUT, f"no whole answer within [openai] timeout = {seconds:g} seconds") from error
        except httpx.TransportError as error:
            raise Failed(
                "connection", f"the connection broke: {_one_line(str(error)) or type(error).__name__}"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # an odd Location
            raise Failed(NO_COMPLETION, _one_line(str(error)), ODD_RETRIES) from error

    def words(self, answer: Answer) -> str:
        """Return why a request failed: the message of the error, else the body; in one line, without the key."""
        said = _message(answer.content)
        if said is None and "location" in answer.headers:
            said = f"it redirects to {answer.headers['location']}"
        return self.safe(answer.body[:MOST_READ].decode(errors="replace") if said is None else said)

    def safe(self, text: str) -> str:
        """Return a text of the endpoint's in one short line, without the key and without credentials."""
        key, text = self._key(), _one_line(text)
        return (text.replace(key, "[key]") if key else text)[:WORDS]

    def _key(self) -> str:
        key = os.environ.get(self.cfg.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"The environment variable {self.cfg.key_variable} holds no key: it has characters that no header may "
                "have. Put the key alone into it."
            )
        return key

    @cached_property
    def _tls(self) -> SSLContext:
        return httpx.create_ssl_context()


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread of its own, since the caller's may have a loop; return its result.

    What interrupts the caller, such as Ctrl-C, cancels the coroutine and goes on.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)

    def run() -> None:
        try:
            loop.run_until_complete(asyncio.wait([task]))
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="endpoint", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LISTEN_SECONDS)
    except BaseException:
        with suppress(RuntimeError):  # the loop is closed: nothing is left to cancel
            loop.call_soon_threadsafe(task.cancel)
        thread.join(CANCEL_SECONDS)
        raise
    return task.result()


async def all_or_none(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines side by side; the first error of one cancels the others, and is raised once they have ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_size(body: bytes | bytearray, is_file: bool) -> None:
    most = LARGEST_FILE if is_file else LARGEST
    if len(body) > most:
        raise Failed(NO_COMPLETION, f"a body of more than {most // 2**20} MiB", ODD_RETRIES)


def _unpacked(body: bytes | bytearray, encoding: str, is_file: bool) -> bytes:
    """Return a body as it was before it was packed, if no larger than it may be."""
    if not body or encoding.lower() in ("", "identity"):
        return bytes(body)
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        unpacked = unpacker.decompress(body, (LARGEST_FILE if is_file else LARGEST) + 1)
    except zlib.error:
        unpacked = b""
    _check_size(unpacked, is_file)
    if not unpacker.eof:
        raise Failed(NO_COMPLETION, f"a body that is not {_one_line(encoding)}, as it says", ODD_RETRIES)
    return unpacked


def _message(content: Any) -> str | None:
    """Return the message of an error in the body, of OpenAI's shape or near it; None where there is none."""
    if not isinstance(content, dict):
        return None
    error = content.get("error")
    found = error.get("message") if isinstance(error, dict) else error if isinstance(error, str) else None
    return str(found) if found else None


def _root(error: BaseException) -> str:
    """Return the words of the error of the system that lies under a client's, whose own words are few."""
    found: BaseException | None = error
    last: BaseException = error
    while found is not None:
        if isinstance(found, OSError) and str(found):
            last = found
        found = found.__cause__ or found.__context__
    return _one_line(str(last)) or type(last).__name__


def _one_line(text: str) -> str:
    text = " ".join(text.encode(errors="replace").decode().split())
    return escape_control(hide_credentials(text))


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
