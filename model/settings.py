"""Read settings from a JSON file."""

import json
from pathlib import Path
from typing import Any

from data_lake.errors import UserError


def read_settings(path: Path | None) -> dict[str, Any]:
    """Return what a JSON file of settings says; nothing without a file."""
    if path is None:
        return {}
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}). Pass a file with one JSON object.") from error
    if not isinstance(given, dict):
        raise UserError(f'{path} holds no JSON object. Pass a file such as {{"seed": 1}}.')
    return given
