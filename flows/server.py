"""The Prefect server of a flow: the one that Prefect's settings name, else one of our own while this process lives."""

import atexit
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from data_lake.errors import UserError
from data_lake.messages import hide_credentials
from data_lake.progress import progress, stop_showing
from flows.text import log
from pipeline.processes.child import Child, ending
from pipeline.proxies import check_proxies, spare_loopback, through_proxy

HOST, PORT = "127.0.0.1", 4200
START_SECONDS = 120
GONE_SECONDS = 30.0
"""How long a server that somebody else started may refuse connections, as while it is restarted."""
LOOK_SECONDS = 1.0
"""How often is looked whether the server is still there."""
LEAST_FREE = 2**20
"""Bytes that the disk with our server's database must have left: a server that cannot write keeps its clients waiting
for minutes."""

DATABASE = {"PREFECT_SERVER_DATABASE_TIMEOUT": "60"}
"""Seconds that a new connection to the server's SQLite waits for a writer: under a worker and a run 10 are too few."""


@dataclass(frozen=True)
class Server:
    """The address of a Prefect server, and its process where we started it."""

    url: str
    child: Child | None = None


def prefect_server(*options: str) -> Server:
    """Return the server to use, started here on loopback with these options where none is named.

    Ours asks everyone for the secret in `secret_file`, since whoever may start a run may set its settings.

    Prefect's own temporary server would get a Ctrl-C of the terminal together with us, and be gone before the flow
    could tell it how it ended; a `Child` does not, and ends after Prefect's last words at the end of this process.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    check_proxies()
    if url := get_current_settings().api.url:
        check(url)
        return Server(url)
    with _alone():
        port = _free_port()
        url = f"http://{HOST}:{port}/api"
        secret = _secret()
        environment = DATABASE | {
            "PREFECT_SERVER_API_AUTH_STRING": secret,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url.removesuffix("/api"),
            "PREFECT_UI_URL": url.removesuffix("/api"),  # that an alert links to
            "PREFECT_UI_API_URL": url,  # else the page asks whoever has Prefect's own port
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
        words = tempfile.TemporaryFile()  # noqa: SIM115  (the server writes to it until the end of this process)
        command += ["--analytics-off", *options]
        child = Child(command, stdout=subprocess.DEVNULL, stderr=words, environment=environment)
        atexit.register(child.end)
        _wait(child, f"{url}/health", words)
    os.environ["PREFECT_API_URL"] = url
    os.environ["PREFECT_API_AUTH_STRING"] = secret
    refresh_global_settings_context()
    return Server(url, child)


@contextlib.contextmanager
def ending_without(server: Server) -> Iterator[None]:
    """End this process with a sentence once the server is gone for good.

    Prefect's client would go on for minutes, each request of its own trying again, and end in a traceback of each. A
    process that ends so leaves what one leaves that is killed: the lake stays whole, and the next run goes on.
    """
    is_over = threading.Event()

    def look() -> None:
        last_seen = time.monotonic()
        while not is_over.wait(LOOK_SECONDS):
            if server.child and (code := server.child.process.poll()) is not None:
                _leave(f"Prefect's own server ended in the middle of the run ({ending(code)})")
            if server.child and shutil.disk_usage(home := secret_file().parent).free < LEAST_FREE:
                _leave(f"no space left on the disk of {home}, where Prefect's own server writes")
            if server.child or not _refuses(server.url):
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > GONE_SECONDS:
                _leave(f"Prefect's server at {hide_credentials(server.url)} refuses connections")

    threading.Thread(target=look, name="prefect server", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _leave(reason: str) -> None:
    stop_showing()
    log(f"error: {reason}. What is finished is kept: run again, and it goes on from there.")
    os._exit(1)


def _refuses(url: str) -> bool:
    """Say whether nobody listens at the address. A busy server that keeps us waiting is there."""
    import httpx

    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=10)
    except httpx.ConnectError:
        return True
    except httpx.HTTPError:
        return False
    return False


def secret_file() -> Path:
    """Return where the secret of the servers that we start lies, for this user alone to read."""
    from prefect.settings import get_current_settings

    return get_current_settings().home / "edt-secret"


def _secret() -> str:
    """Return the words that our server wants of its clients: the user's own setting, else those of `secret_file`."""
    from prefect.settings import get_current_settings

    if own := get_current_settings().server.api.auth_string:
        return own.get_secret_value()
    path = secret_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"edt:{secrets.token_urlsafe(24)}")
    return path.read_text()


def check(url: str) -> None:
    """Raise UserError where no Prefect server can be reached."""
    import httpx

    try:
        known = httpx.URL(f"{url.rstrip('/')}/health")
    except httpx.InvalidURL:
        raise UserError(
            "PREFECT_API_URL is no URL. Set it to one such as http://127.0.0.1:4200/api, or unset it."
        ) from None  # it shows a part of the URL
    spare_loopback(known.host)
    advice = "Start a Prefect server there, or unset it."
    try:
        reply = httpx.get(known, timeout=10)
    except httpx.HTTPError as error:
        proxy = through_proxy(known.host)
        raise UserError(f"PREFECT_API_URL={url} does not answer ({error}){proxy}. {advice}") from error
    is_closed = reply.status_code in (401, 403)  # whether it lets us in is Prefect's to say
    if not is_closed and reply.text.strip() != "true":
        raise UserError(f"PREFECT_API_URL={url}: what answers there is no Prefect server. {advice}")


def _wait(child: Child, address: str, words: IO[bytes]) -> None:
    """Wait until the server answers. Raises UserError where it ends before, with the error among its last words."""
    deadline = time.monotonic() + START_SECONDS
    with progress("starting Prefect's server"):
        while time.monotonic() < deadline and child.process.poll() is None:
            try:
                with urllib.request.urlopen(address, timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
    words.seek(0)
    errors = re.findall(r"^[\w.]*(?:Error|Exception)\b.*$", words.read().decode(errors="replace"), re.MULTILINE)
    if errors:
        reason = errors[-1]
    elif (code := child.process.poll()) is not None:
        reason = f"it ended ({ending(code)})"
    else:
        reason = f"it did not answer at {address} within {START_SECONDS} seconds"
    database = secret_file().with_name("prefect.db")
    raise UserError(
        f"Prefect's own server did not start: {reason}. Its database is {database}: move it away if it is damaged, or "
        f"let PREFECT_API_URL name a server that runs."
    )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other process of this user starts a server: two would find the same port free, and share one."""
    path = Path(tempfile.gettempdir()) / f"edt-prefect-server-{os.getuid()}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _free_port() -> int:
    """Return Prefect's own port, or any free one where it is taken."""
    for port in (PORT, 0):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError(f"no free port on {HOST}")
