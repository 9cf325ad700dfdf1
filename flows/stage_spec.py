"""How a stage is declared, and what its work is given."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_lake.config import Config
from data_lake.errors import UserError, shortened
from data_lake.lake import Stage, StageIO
from flows.models import Models
from flows.settings import Settings
from pipeline.llm.generator import Generator
from pipeline.vectors.embedding import CachedEmbed

Names = tuple[str, ...] | Callable[[Settings], tuple[str, ...]]
"""Names, or what gives them where they depend on the settings."""


@dataclass(frozen=True)
class StageSpec:
    """The declaration of a stage: all that anybody but its work needs to know of it.

    `reads` and `makes` name artifacts. `settings` are those that decide what is made; they go into the fingerprint.
    `machine` are further ones that the work reads and that change no result, such as the rows of a shard. Reading any
    other raises UndeclaredSettingError. `constants` are texts and numbers of the package that decide what is made, too,
    `sources` the raw files that it reads. A stage that `enriches` is off where the generator of [enrich] is `none`, one
    that `describes` where that of [describe] is. One that `asks` gets its generator, and also reads what that answers
    from; one that `encodes` gets the text encoder; one that is `by_domain` gets the domains in their order, and also
    reads `items`, which tell them. `check` is that of `Stage`.
    """

    name: str
    version: int
    reads: Names
    makes: tuple[str, ...]
    settings: Names
    work: Callable[["StageRun"], None]
    machine: tuple[str, ...] = ()
    enriches: bool = False
    describes: bool = False
    asks: bool = False
    encodes: bool = False
    by_domain: bool = False
    check: Callable[["StageRun", Mapping[str, Path]], None] = lambda run, folders: None
    sources: Callable[[Settings], Iterable[Path]] = lambda settings: ()
    constants: Callable[[Settings], dict[str, Any]] = lambda settings: {}

    def is_on(self, settings: Settings) -> bool:
        """Say whether the settings turn the stage on."""
        return (settings.enrich.is_on or not self.enriches) and (settings.describe.is_on or not self.describes)

    @property
    def section(self) -> str:
        """The section of the settings whose generator turns the stage on."""
        return "describe" if self.describes else "enrich"

    def generator(self, models: Models) -> Generator:
        """Return the generator that the stage asks."""
        return models.describer if self.describes else models.generator

    def stage(self, settings: Settings, models: Models) -> Stage:
        """Return the stage as the lake runs it."""
        reads = self._reads(settings, models)
        names = _names(self.settings, settings)
        declared = settings.only(*names)
        fingerprint = declared.as_fingerprint() | self.constants(settings)
        if self.encodes:
            fingerprint["embed"] = {"model": models.encoder.model, "revision": models.encoder.revision}
        if self.asks:
            name = (settings.describe if self.describes else settings.enrich).generator
            fingerprint |= {"generator": name, **self.generator(models).fingerprint}
        if self.by_domain:
            fingerprint["domain_order"] = list(settings.domains)

        def given(io: StageIO) -> StageRun:
            only = settings.only(*names, *self.machine)
            return StageRun(io, only, models, reads, list(settings.domains), self.generator)

        def work(io: StageIO) -> None:
            self.work(given(io))

        def check(io: StageIO, folders: Mapping[str, Path]) -> None:
            self.check(given(io), folders)

        sources = tuple(self.sources(settings))
        return Stage(self.name, self.version, reads, self.makes, fingerprint, work, sources, check)

    def _reads(self, settings: Settings, models: Models) -> tuple[str, ...]:
        reads = _names(self.reads, settings)
        if self.by_domain:
            reads = (*reads, "items")
        if self.asks:
            reads = (*reads, *self.generator(models).reads)
        return tuple(dict.fromkeys(reads))


class StageRun:
    """What the work of a stage is given: its inputs and outputs, its own settings, and the models."""

    def __init__(
        self, io: StageIO, settings: Settings, models: Models, reads: tuple[str, ...], domain_order: list[str],
        generator_of: Callable[[Models], Generator],
    ) -> None:  # fmt: skip
        self.io, self.settings, self.models, self.reads = io, settings, models, reads
        self._domain_order, self._generator_of = domain_order, generator_of

    @cached_property
    def domains(self) -> list[str]:
        """The domains of the catalogue: those that the settings name in their order, then the others by name."""
        known = sorted(self.io.read("items", columns=["domain"])["domain"].unique().to_pylist())
        for name in self._domain_order:
            if name not in known:
                raise UserError(f"[domains.{name}]: the items have no such domain. They have {shortened(known)}.")
        return [*self._domain_order, *(name for name in known if name not in self._domain_order)]

    @cached_property
    def generator(self) -> Generator:
        """The generator, with the artifacts that it answers from."""
        asked = self._generator_of(self.models)
        asked.remember_in(self.io.keyed_cache("batches"))
        generator = self.models.generator_with_cache(asked, self.io.keyed_cache("replies"))
        generator.read({artifact: self.io.read_parts(artifact) for artifact in generator.reads})
        return generator

    @cached_property
    def embed(self) -> CachedEmbed:
        """The text encoder with its cache of vectors."""
        return self.models.encoder_with_cache(self.io.keyed_cache("vectors"))


def all_but(section: str, settings_class: type[Config], *names: str) -> tuple[str, ...]:
    """Return every setting of a section but these, by its dotted name."""
    return tuple(f"{section}.{name}" for name in settings_class.model_fields if name not in names)


def _names(names: Names, settings: Settings) -> tuple[str, ...]:
    return names(settings) if callable(names) else names
