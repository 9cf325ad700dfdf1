"""Where a process listens."""

import psutil


def listening(pid: int) -> set[str]:
    """Return the addresses at which a process and all that it started wait for connections."""
    process = psutil.Process(pid)
    found = set()
    for each in (process, *process.children(recursive=True)):
        found |= {it.laddr.ip for it in each.net_connections("inet") if it.status == psutil.CONN_LISTEN}
    return found
