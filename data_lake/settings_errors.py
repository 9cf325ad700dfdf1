"""Check settings against a class: what is wrong is one sentence each, and names the nearest known key."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from data_lake.errors import UserError
from data_lake.messages import hide_credentials

M = TypeVar("M", bound=BaseModel)

NAME = "NAME"
"""Stands for the part of a section's name that the user chooses, as in [domains.NAME]."""

WIDEST = 60
"""Characters of a wrong value that an error shows at most; a longer one is left out."""


def parse(kind: type[M], given: dict[str, Any]) -> M:
    """Return settings of a class. Raises UserError with one line for each wrong setting."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise UserError("\n".join(problems(kind, error))) from None  # it shows inputs


def problems(kind: type[BaseModel], error: ValidationError, secrets: frozenset[str] = frozenset()) -> list[str]:
    """Say in one sentence each what is wrong; of the alternatives that one setting allows, only the first.

    kind: the class that refused the settings. secrets: keys whose values are never shown.
    """
    known = dict(_keys(kind))
    found: dict[tuple[str, ...], str] = {}
    for each in error.errors():
        loc = tuple(map(str, each["loc"]))
        if each["type"] == "extra_forbidden":
            found.setdefault(loc, _unknown(loc, each["input"], known))
            continue
        while len(loc) > 1 and not any(_alike(path, loc) for path in known):
            loc = loc[:-1]  # what follows tells the alternative
        missing = each["type"] == "missing" and len(loc) == len(each["loc"])
        found.setdefault(loc, _missing(loc) if missing else _wrong(loc, each["msg"], each["input"], secrets))
    return list(found.values())


def _unknown(loc: tuple[str, ...], value: Any, known: dict[tuple[str, ...], bool]) -> str:
    what = f"section [{'.'.join(loc)}]" if isinstance(value, dict) else f"setting {_title(loc)}"
    return f"unknown {what}{_nearest(loc, known)}."


def _missing(loc: tuple[str, ...]) -> str:
    return f"{_title(loc)} is missing. Set it."


def _wrong(loc: tuple[str, ...], message: str, value: Any, secrets: frozenset[str]) -> str:
    title, message = _title(loc), message.removeprefix("Value error, ")
    is_hidden = isinstance(value, dict) or len(repr(value)) > WIDEST or (loc and loc[-1] in secrets)
    shown = "" if is_hidden else f", not {hide_credentials(repr(value))}"
    return f"{title + ': ' if title else ''}{message[:1].lower()}{message[1:]}{shown}."


def _title(loc: tuple[str, ...]) -> str:
    *section, key = loc or ("",)
    return f"[{'.'.join(section)}] {key}" if section else key


def _nearest(loc: tuple[str, ...], known: dict[tuple[str, ...], bool]) -> str:
    """Name the nearest known key: of the same section if there is one, else of any."""
    here = [path for path in known if _alike(path[:-1], loc[:-1])]
    for paths in (here, list(known)):
        by_name = {path[-1]: path for path in reversed(paths)}
        for match in get_close_matches(loc[-1], by_name, n=1):
            path = by_name[match]
            if known[path]:
                return f"; the nearest known one is [{'.'.join(path)}]"
            return f"; the nearest known one is {match!r}" + (f" in [{'.'.join(path[:-1])}]" if path[:-1] else "")
    return ""


def _alike(known: tuple[str, ...], given: tuple[str, ...]) -> bool:
    return len(known) == len(given) and all(k in (g, NAME) for k, g in zip(known, given, strict=True))


def _keys(kind: type[BaseModel], section: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield the path of every setting and whether it is a section; NAME stands for a name that the user chooses."""
    for name, field in kind.model_fields.items():
        path = (*section, field.alias or name)
        inner = _section(field.annotation)
        yield path, inner is not None
        if inner is not None:
            free = get_origin(field.annotation) is dict
            yield from _keys(inner, (*path, NAME) if free else path)


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the settings class in an annotation such as `DomainConfig` or `dict[str, DomainConfig]`."""
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_section, get_args(annotation)) if found), None)
