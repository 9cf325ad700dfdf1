"""The models that the stages of a run share: one text encoder and one generator, never both in memory."""

from functools import cached_property, partial
from types import TracebackType
from typing import Self

from data_lake.keyed_cache import KeyedCache
from flows.settings import Settings
from pipeline.llm.answers import worth_keeping
from pipeline.llm.backends import open_generator
from pipeline.llm.budget import Budget
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.generator import Generator
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
        return EmbedProcess(self._settings.embed, lambda: self._close("generator"))

    @cached_property
    def generator(self) -> Generator:
        """The generator, not started."""
        return open_generator(self._settings, lambda: self._close("encoder"))

    def encoder_with_cache(self, cache: KeyedCache) -> CachedEmbed:
        """Return the encoder with its cache of vectors."""
        return CachedEmbed(self.encoder, cache)

    def generator_with_cache(self, cache: KeyedCache) -> Generator:
        """Return the generator, with its cache of replies where it asks a language model."""
        if not self.generator.asks_model:
            return self.generator
        sampling = self.generator.identity.get("sampling", {})
        is_deterministic = (sampling | sampling.get("extra_body", {})).get("temperature") == 0
        keep = partial(worth_keeping, is_deterministic=is_deterministic)
        return CachedGenerator(self._within_budget, cache, self._ask_again, keep)

    @cached_property
    def _within_budget(self) -> Generator:
        """The generator; where a run has limits, one that all stages of the run share."""
        llm = self._settings.llm
        if not (llm.max_run_requests or llm.max_run_tokens):
            return self.generator
        return Budget(self.generator, llm.max_run_requests, llm.max_run_tokens)

    def close(self, patience: float = 15.0) -> None:
        """End what runs and free its memory; the next text or prompt starts a model again."""
        for name in ("encoder", "generator"):
            self._close(name, patience)

    def _close(self, name: str, patience: float = 15.0) -> None:
        if name in self.__dict__:
            getattr(self, name).close(patience)
