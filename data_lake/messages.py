"""Texts that are safe to show: what could steer a terminal is written out, and credentials inside URLs are hidden."""

import re
import unicodedata

_USERINFO = re.compile(r"(?<=://)(?:[^\s/?#@:]*:\S*|[^\s/?#]*)@")
"""What stands before a URL's host. A password may hold a slash or an @, as keys of object stores do."""
_QUERY = re.compile(r"(://[^\s?#]*\?)[^\s#'\")]+")


def escape_control(text: str) -> str:
    """Return the text in one line, with what could steer a terminal written out as an escape."""
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else c for c in text)


def hide_credentials(text: str) -> str:
    """Return the text with *** for user, password and query of each URL in it."""
    return _QUERY.sub(r"\1***", _USERINFO.sub("***@", text)) if "://" in text else text


def for_terminal(text: str) -> str:
    """Return the lines of a text without credentials, and with escapes for what could steer a terminal."""
    return "\n".join(map(escape_control, hide_credentials(text).split("\n")))
