"""How a stage is declared, and what its work is given."""

from collections.abc import Callable, Iterable
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
    `sources` the raw files that it reads. A stage that `enriches` is off where the generator is `none`. One that `asks`
    gets the generator, and also reads what that answers from; one that `encodes` gets the text encoder; one that is
    `by_domain` gets the domains in their order, and also reads `items`, which tell them.
    """

    name: str
    version: int
    reads: Names
    makes: tuple[str, ...]
    settings: Names
    work: Callable[["StageRun"], None]
    machine: tuple[str, ...] = ()
    enriches: bool = False
    asks: bool = False
    encodes: bool = False
    by_domain: bool = False
    sources: Callable[[Settings], Iterable[Path]] = lambda settings: ()
    constants: Callable[[Settings], dict[str, Any]] = lambda settings: {}

    def is_on(self, settings: Settings) -> bool:
        """Say whether the settings turn the stage on."""
        return not self.enriches or settings.enrich.is_on

    def stage(self, settings: Settings, models: Models) -> Stage:
        """Return the stage as the lake runs it."""
        reads = self._reads(settings, models)
        names = _names(self.settings, settings)
        declared = settings.only(*names)
        fingerprint = declared.as_fingerprint() | self.constants(settings)
        if self.encodes:
            fingerprint["embed"] = {"model": models.encoder.model, "revision": models.encoder.revision}
        if self.asks:
            fingerprint |= {"generator": settings.enrich.generator, **models.generator.fingerprint}
        if self.by_domain:
            fingerprint["domain_order"] = list(settings.domains)

        def work(io: StageIO) -> None:
            self.work(StageRun(io, settings.only(*names, *self.machine), models, reads, list(settings.domains)))

        sources = tuple(self.sources(settings))
        return Stage(self.name, self.version, reads, self.makes, fingerprint, work, sources)

    def _reads(self, settings: Settings, models: Models) -> tuple[str, ...]:
        reads = _names(self.reads, settings)
        if self.by_domain:
            reads = (*reads, "items")
        if self.asks:
            reads = (*reads, *models.generator.reads)
        return tuple(dict.fromkeys(reads))


class StageRun:
    """What the work of a stage is given: its inputs and outputs, its own settings, and the models."""

    def __init__(
        self, io: StageIO, settings: Settings, models: Models, reads: tuple[str, ...], domain_order: list[str]
    ) -> None:
        self.io, self.settings, self.models, self.reads = io, settings, models, reads
        self._domain_order = domain_order

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
        self.models.generator.remember_in(self.io.keyed_cache("batches"))
        generator = self.models.generator_with_cache(self.io.keyed_cache("replies"))
        generator.read({artifact: self.io.read(artifact) for artifact in generator.reads})
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
