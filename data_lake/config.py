"""The base of every settings class."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator


class UndeclaredSettingError(AttributeError):
    """A setting was read that was not among those that `Config.only` left."""


class RenamedSettingWarning(FutureWarning):
    """A setting was given under its old name."""


class Config(BaseModel):
    """Settings that cannot change once read and refuse a key that they do not know.

    A class that renames a setting keeps the old name working: `renamed` maps it to the new one. The old name warns with
    a RenamedSettingWarning; both names together are an error.
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
            warnings.warn(
                f"setting {old} is now called {new}; the old name will stop working", RenamedSettingWarning, 2
            )
            given = {new if key == old else key: value for key, value in given.items()}
        return given

    def only(self, *names: str) -> Self:
        """Return a copy with these settings alone; reading any other raises UndeclaredSettingError.

        A name is dotted where it lies in a section: "enrich.answers". In a section whose keys the user chooses it is
        that of a setting of each: "domains.describe". Raises ValueError for a name that is no setting.
        """
        inner: dict[str, list[str]] = {}
        for name in names:
            key, _, rest = name.partition(".")
            if key not in type(self).model_fields:
                raise ValueError(f"{type(self).__name__} has no setting {key}")
            inner.setdefault(key, []).append(rest)
        kept = self.model_copy()
        for key, value in list(kept.__dict__.items()):
            if key not in inner:
                del kept.__dict__[key]
            elif "" not in inner[key]:
                kept.__dict__[key] = _only(value, inner[key])
        return kept

    def as_fingerprint(self) -> dict[str, Any]:
        """Return the settings as they stand in a fingerprint: as JSON, without what changes no result."""
        dumped = self.model_dump(mode="json")
        return dumped | {key: _fingerprint(value) for key, value in self.__dict__.items() if _is_section(value)}

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in type(self).model_fields:
                raise UndeclaredSettingError(
                    f"{type(self).__name__}.{name} is read by a stage that does not declare it"
                )
            return super().__getattr__(name)


def _is_section(value: Any) -> bool:
    return isinstance(value, Config) or (isinstance(value, dict) and any(isinstance(v, Config) for v in value.values()))


def _only(value: Any, names: list[str]) -> Any:
    return {key: each.only(*names) for key, each in value.items()} if isinstance(value, dict) else value.only(*names)


def _fingerprint(value: Any) -> Any:
    return (
        {key: each.as_fingerprint() for key, each in value.items()}
        if isinstance(value, dict)
        else value.as_fingerprint()
    )


def _old_names(kind: type[Config]) -> dict[str, str]:
    """Return the renamed settings of a class and of those that it extends."""
    return {old: new for each in reversed(kind.__mro__) for old, new in getattr(each, "renamed", {}).items()}
