"""A stage of the pipeline as the lake sees it, and how one stands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_lake.manifest import Input, Manifest, changes

if TYPE_CHECKING:
    from data_lake.stage_io import StageIO


@dataclass(frozen=True)
class Stage:
    """What makes artifacts out of artifacts.

    `settings` is all that `work` reads of the settings, as JSON; it goes into the fingerprint, as do `version`, the
    content of the artifacts in `reads` and the bytes of the raw files in `sources`.
    """

    name: str
    version: int
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    settings: Mapping[str, Any]
    work: Callable[["StageIO"], None]
    sources: tuple[Path, ...] = ()


@dataclass(frozen=True)
class State:
    """How a stage stands: "fresh", "stale" or "missing", and why.

    `blocked` names the inputs that are not there; `manifest` is the record of what is in force, if anything is.
    """

    kind: Literal["fresh", "stale", "missing"]
    why: str
    blocked: tuple[str, ...] = ()
    manifest: Manifest | None = None


@dataclass(frozen=True)
class Recipe:
    """All that decides what a stage would make now."""

    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, Input]
    sources: dict[str, str]


def differences(stage: Stage, recipe: Recipe, made: Manifest) -> list[str]:
    """Return what has changed since `made`, for people: "settings: profile.words 50 -> 80", "input items changed"."""
    found = []
    if made.stage != stage.name:
        found.append(f"made by stage {made.stage}")
    if made.version != stage.version:
        found.append(f"version {made.version} -> {stage.version}")
    found += [f"settings: {change}" for change in changes(made.settings, recipe.settings)]
    for name in sorted(made.inputs.keys() | recipe.inputs.keys()):
        if name not in recipe.inputs:
            found.append(f"input {name} is no longer read")
        elif name not in made.inputs:
            found.append(f"input {name} is new")
        elif made.inputs[name].content != recipe.inputs[name].content:
            found.append(f"input {name} changed")
    before, now = list(made.sources.values()), list(recipe.sources.values())
    if len(before) == len(now):
        names = [Path(path).name for path in recipe.sources]
        found += [f"source {name} changed" for name, a, b in zip(names, before, now, strict=True) if a != b]
    else:
        found.append(f"sources: {len(before)} -> {len(now)} files")
    return found
