"""The models that the stages of a run share: one text encoder, one language model, never both in memory."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from data_lake.memory import Memory
from flows.settings import Settings
from pipeline.embedding import EmbedProcess, RememberedEmbed
from pipeline.llm.ask_once import AskOnce
from pipeline.llm.generate import Generate, Reply, Request
from pipeline.llm.vllm import VLLM


class Engines:
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
        return EmbedProcess(self._settings.embed)

    @cached_property
    def llm(self) -> VLLM:
        """The language model, not started."""
        return VLLM(self._settings.llm)

    def embed(self, memory: Memory) -> RememberedEmbed:
        """Return the encoder with its memory of vectors."""
        return RememberedEmbed(_EmbedAlone(self), memory)

    def generate(self, memory: Memory, items: pa.Table, item_embeddings: pa.Table | None) -> Generate:
        """Return who answers prompts: the language model with its memory of replies, or `retrieval`."""
        if item_embeddings is not None:
            from pipeline.llm.retrieval import Retrieval

            return Retrieval(items, item_embeddings)
        from pipeline.answers import usable

        return AskOnce(_AskAlone(self), memory, self._ask_again, usable)

    def close(self, patience: float = 15.0) -> None:
        """End what runs and free its memory; whoever is asked next starts again."""
        for name in ("encoder", "llm"):
            if name in self.__dict__:
                getattr(self, name).close(patience)


class _EmbedAlone:
    """The encoder, without a language model beside it."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    @property
    def model(self) -> str:
        return self._engines.encoder.model

    @property
    def revision(self) -> str:
        return self._engines.encoder.revision

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        if "llm" in self._engines.__dict__:
            self._engines.llm.close()
        return self._engines.encoder(texts)


class _AskAlone:
    """The language model, without an encoder beside it."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._engines.llm.identity

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        if "encoder" in self._engines.__dict__:
            self._engines.encoder.close()
        return self._engines.llm(requests)
