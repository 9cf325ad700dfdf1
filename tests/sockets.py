"""Where a process listens, and where none does."""

import socket

import psutil


def listening(pid: int) -> set[str]:
    """Return the addresses at which a process and all that it started wait for connections."""
    process = psutil.Process(pid)
    found = set()
    for each in (process, *process.children(recursive=True)):
        found |= {it.laddr.ip for it in each.net_connections("inet") if it.status == psutil.CONN_LISTEN}
    return found


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
