"""The models that the stages of a run share: a text encoder and one language model, never both in memory."""

from functools import cached_property, partial
from types import TracebackType
from typing import Self

from data_lake.errors import UserError
from data_lake.keyed_cache import KeyedCache
from flows.settings import Settings
from pipeline.llm.answers import worth_keeping
from pipeline.llm.backends import open_generator
from pipeline.llm.budget import Budget
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.generator import Generator
from pipeline.model_identity import OWN
from pipeline.vectors.embedding import CachedEmbed, EmbedProcess


class Models:
    """Starts a model's process when its first text or prompt comes, and ends the other one's before that.

    Leaving the context ends both, however it is left.
    """

    def __init__(self, settings: Settings, ask_again: bool = False) -> None:
        """`ask_again` asks the language model also where the lake holds its reply."""
        self._settings, self._ask_again = settings, ask_again

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(patience=0)

    @cached_property
    def encoder(self) -> EmbedProcess:
        """The text encoder, not started."""
        return EmbedProcess(self._settings.embed, lambda: self._close("generator", "describer"))

    @cached_property
    def generator(self) -> Generator:
        """The generator of [enrich], not started."""
        return self._open(self._settings.enrich.generator)

    @cached_property
    def describer(self) -> Generator:
        """The generator of [describe], not started; that of [enrich] where both are the same.

        Raises UserError where it asks no language model that knows items, or where [enrich] would ask another one.
        """
        name, enrich = self._settings.describe.generator, self._settings.enrich
        describer = self.generator if name == enrich.generator else self._open(name)
        if not describer.asks_model:
            raise UserError(
                f'[describe] generator = "{name}" asks no language model, so it knows nothing of an item. Name one '
                'that does, such as "vllm" or "openai", or "none".'
            )
        if self._settings.llm.model in OWN:
            raise UserError(
                f"[llm] model = {self._settings.llm.model!r} was taught the questions about users alone and cannot "
                'describe items. Set [llm] model to another one, or [describe] generator = "none".'
            )
        if enrich.is_on and self.generator is not describer and self.generator.asks_model:
            raise UserError(
                f'[describe] generator = "{name}" and [enrich] generator = "{enrich.generator}" would ask two models, '
                "and [llm] names one. Name the same generator in both."
            )
        return describer

    @property
    def language_model(self) -> Generator:
        """The generator of this run that asks the language model of [llm]; there is one at most."""
        return self.describer if self._settings.describe.is_on else self.generator

    def encoder_with_cache(self, cache: KeyedCache) -> CachedEmbed:
        """Return the encoder with its cache of vectors."""
        return CachedEmbed(self.encoder, cache)

    def generator_with_cache(self, generator: Generator, cache: KeyedCache) -> Generator:
        """Return a generator of these, with its cache of replies where it asks the language model."""
        if not generator.asks_model:
            return generator
        sampling = generator.identity.get("sampling", {})
        is_deterministic = (sampling | sampling.get("extra_body", {})).get("temperature") == 0
        keep = partial(worth_keeping, is_deterministic=is_deterministic)
        return CachedGenerator(self._within_budget, cache, self._ask_again, keep)

    @cached_property
    def _within_budget(self) -> Generator:
        """The language model; where a run has limits, one that all stages of the run share."""
        llm = self._settings.llm
        if not (llm.max_run_requests or llm.max_run_tokens):
            return self.language_model
        return Budget(self.language_model, llm.max_run_requests, llm.max_run_tokens)

    def close(self, patience: float = 15.0) -> None:
        """End what runs and free its memory; the next text or prompt starts a model again."""
        self._close("encoder", "generator", "describer", patience=patience)

    def _open(self, name: str) -> Generator:
        return open_generator(name, self._settings, lambda: self._close("encoder"))

    def _close(self, *names: str, patience: float = 15.0) -> None:
        for name in names:
            if name in self.__dict__:
                getattr(self, name).close(patience)
