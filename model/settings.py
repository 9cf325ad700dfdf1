"""Read settings from a JSON file; a wrong one is a sentence that names the nearest key."""

import difflib
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from data_lake.config import Config
from data_lake.errors import UserError

C = TypeVar("C", bound=Config)


def read_settings(path: Path | None) -> dict[str, Any]:
    """Return what a JSON file of settings says; nothing without a file."""
    if path is None:
        return {}
    try:
        given = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}). Pass a file with one JSON object.") from error
    if not isinstance(given, dict):
        raise UserError(f'{path} holds no JSON object. Pass a file such as {{"seed": 1}}.')
    return given


def parse(kind: type[C], given: dict[str, Any]) -> C:
    """Return settings of a class, or say which one is wrong."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        message = f"setting {'.'.join(place) or kind.__name__}: {first['msg'].removeprefix('Value error, ')}."
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(place[-1], _keys(kind, place[:-1]), 1, 0.0)
            message = f"setting {'.'.join(place)} is unknown." + (f" Did you mean '{near[0]}'?" if near else "")
        raise UserError(message) from error


def _keys(kind: type[BaseModel], place: list[str]) -> list[str]:
    """Return the known keys of the section at `place`."""
    for part in place:
        inner = kind.model_fields[part].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        kind = inner
    return list(kind.model_fields)
