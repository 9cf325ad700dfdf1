"""The proxies that environment variables name: loopback is never asked through one."""

import os
from ipaddress import ip_address

from data_lake.errors import UserError

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Say whether a host's name or address is this machine's own."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def proxy_variables() -> list[str]:
    """Return the environment variables that are set and name a proxy."""
    return [name for each in VARIABLES for name in (each, each.lower()) if os.environ.get(name)]


def spare_loopback(*hosts: str) -> None:
    """Let no library here, nor any process that we start, ask loopback, or these hosts where they are it, by proxy."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    listed = [each.strip() for each in known.split(",") if each.strip()]
    spared = [*LOOPBACK, *(host for host in hosts if is_loopback(host))]
    listed += [host for host in dict.fromkeys(spared) if host not in listed]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(listed)


def through_proxy(host: str) -> str:
    """Return what a message says of the proxies by which a host may be asked; nothing where there is none."""
    names = [] if is_loopback(host) else proxy_variables()
    return f" through the proxy of {' or '.join(names)}" if names else ""


def check_proxies() -> None:
    """Raise UserError where a variable names a proxy that cannot be used: every HTTP client would fail to open."""
    import httpx

    for name in proxy_variables():
        url = os.environ[name]
        try:
            httpx.Client(proxy=url if "://" in url else f"http://{url}", trust_env=False).close()
        except ImportError as error:
            raise UserError(
                f"The environment variable {name} names a SOCKS proxy, which needs the package socksio: install it, or "
                f"unset {name}."
            ) from error
        except (ValueError, httpx.InvalidURL):
            raise UserError(
                f"The environment variable {name} names no proxy: set it to a URL such as http://proxy:3128, or unset "
                "it."
            ) from None  # it shows the URL
