"""The base of generators that wrap another one."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from data_lake.keyed_cache import KeyedCache
from pipeline.llm.generator import Generator, Tokens


class GeneratorWrapper:
    """A `Generator` around one that asks a language model: all but `__call__`, which a subclass adds, is handed on."""

    asks_model = True
    reads: tuple[str, ...] = ()

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Generator`."""
        return self._generator.identity

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """See `Generator`."""
        return self._generator.fingerprint

    @property
    def tokens(self) -> Tokens:
        """See `Generator`."""
        return self._generator.tokens

    @property
    def last_words(self) -> str:
        """See `Generator`."""
        return self._generator.last_words

    def read(self, parts: Mapping[str, Iterable[pa.Table]]) -> None:
        """Do nothing: a language model answers from no artifacts."""

    def remember_in(self, cache: KeyedCache) -> None:
        """Hand the cache on."""
        self._generator.remember_in(cache)

    def counts(self) -> dict[str, Any]:
        """Return what the generator counted since the last call."""
        return self._generator.counts()

    def close(self, patience: float = 15.0) -> None:
        """Close the generator."""
        self._generator.close(patience)
