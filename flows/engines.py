"""The models that the stages of a run share: one text encoder, one language model, never both in memory."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from data_lake.keyed_cache import KeyedCache
from flows.settings import Settings
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.generator import Generate, Reply, Request
from pipeline.llm.tokens import Characters, ModelTokens, Tokens
from pipeline.llm.vllm import VLLM
from pipeline.model_identity import identify
from pipeline.vectors.embedding import EmbedProcess, RememberedEmbed

if TYPE_CHECKING:
    from pipeline.llm.openai import OpenAI


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
    def llm(self) -> "VLLM | OpenAI":
        """The language model, not started."""
        if self._settings.enrich.generator == "openai":
            from pipeline.llm.openai import OpenAI

            return OpenAI(self._settings.llm, self._settings.openai)
        return VLLM(self._settings.llm)

    @cached_property
    def tokens(self) -> Tokens:
        """What cuts titles and measures prompts: the model's own tokenizer where it is known."""
        llm = self._settings.llm
        match self._settings.enrich.generator:
            case "vllm":
                model = identify(llm.model, llm.revision, section="llm")
                revision = None if model.is_folder else model.revision
                return ModelTokens(model.source, revision, llm.max_model_len)
            case "openai" if folder := self._settings.openai.tokenizer:
                return ModelTokens(folder, None, llm.max_model_len)
            case _:
                return Characters()

    @cached_property
    def tokenizer(self) -> str | None:
        """The hash of the folder whose tokenizer stands for an endpoint's; None where there is none."""
        folder = self._settings.openai.tokenizer
        return identify(folder, None, section="openai").revision if folder else None

    def embed(self, memory: KeyedCache) -> RememberedEmbed:
        """Return the encoder with its memory of vectors."""
        return RememberedEmbed(_EmbedAlone(self), memory)

    def generate(self, memory: KeyedCache, items: pa.Table, item_embeddings: pa.Table | None) -> Generate:
        """Return who answers prompts: the language model with its memory of replies, or `retrieval`."""
        if item_embeddings is not None:
            from pipeline.llm.retrieval import Retrieval

            return Retrieval(items, item_embeddings, self._settings.enrich.exact_up_to)
        from pipeline.llm.answers import worth_keeping

        return CachedGenerator(_AskAlone(self), memory, self._ask_again, worth_keeping)

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
