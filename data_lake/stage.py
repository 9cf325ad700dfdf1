"""A stage of the pipeline as the lake sees it, and its state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_lake.manifest import Input, Manifest, changes
from data_lake.stage_io import StageIO

Check = Callable[[StageIO, Mapping[str, Path]], None]
"""Looks at finished artifacts, by their folders."""


@dataclass(frozen=True)
class Stage:
    """What makes artifacts out of artifacts.

    `settings` holds every setting that `work` reads, as JSON; it goes into the fingerprint, as do `version`, the
    content of the artifacts in `reads` and the bytes of the raw files in `sources`. `check` gets the folders of what
    is to become current next, be it new or made before, and may raise HeldBack.
    """

    name: str
    version: int
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    settings: Mapping[str, Any]
    work: Callable[[StageIO], None]
    sources: tuple[Path, ...] = ()
    check: Check = lambda io, folders: None


@dataclass(frozen=True)
class State:
    """Whether a stage's artifacts are "fresh", "stale" or "missing", and why.

    `blocked` names the missing inputs; `manifest` is that of the current artifacts, if there are any.
    """

    kind: Literal["fresh", "stale", "missing"]
    why: str
    blocked: tuple[str, ...] = ()
    manifest: Manifest | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything that a stage's result depends on now, and its hash."""

    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, Input]
    sources: dict[str, str]


def differences(stage: Stage, recipe: Recipe, manifest: Manifest) -> list[str]:
    """Return what changed since `manifest`, for people: "settings: profile.words 50 -> 80", "input items changed"."""
    found = []
    if manifest.stage != stage.name:
        found.append(f"made by stage {manifest.stage}")
    if manifest.version != stage.version:
        found.append(f"version {manifest.version} -> {stage.version}")
    found += [f"settings: {change}" for change in changes(manifest.settings, recipe.settings)]
    for name in sorted(manifest.inputs.keys() | recipe.inputs.keys()):
        if name not in recipe.inputs:
            found.append(f"input {name} is no longer read")
        elif name not in manifest.inputs:
            found.append(f"input {name} is new")
        elif manifest.inputs[name].content != recipe.inputs[name].content:
            found.append(f"input {name} changed")
    before, now = list(manifest.sources.values()), list(recipe.sources.values())
    if len(before) == len(now):
        names = [Path(path).name for path in recipe.sources]
        found += [f"source {name} changed" for name, a, b in zip(names, before, now, strict=True) if a != b]
    else:
        found.append(f"sources: {len(before)} -> {len(now)} files")
    return found
