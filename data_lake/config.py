"""The base of every settings class."""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """Settings that cannot change once read and refuse a key that they do not know.

    A class that renames a setting keeps the old name working: `renamed` maps it to the new one. The old name warns with
    a FutureWarning; both names together are an error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, given: Any) -> Any:
        return cls.with_new_names(given) if isinstance(given, dict) else given

    @classmethod
    def with_new_names(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return what was given for this class under the current names; a value given under an old one warns."""
        names = _old_names(cls)
        for old in sorted(names.keys() & given.keys()):
            new = names[old]
            if new in given:
                raise ValueError(f"{old} is the old name of {new}; set {new} alone")
            warnings.warn(f"setting {old} is now called {new}; the old name will stop working", FutureWarning, 2)
            given = {new if key == old else key: value for key, value in given.items()}
        return given


def _old_names(kind: type[Config]) -> dict[str, str]:
    """Return the renamed settings of a class and of those that it extends."""
    return {old: new for each in reversed(kind.__mro__) for old, new in getattr(each, "renamed", {}).items()}
