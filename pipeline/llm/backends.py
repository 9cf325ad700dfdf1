"""Every generator by its name in [enrich] and [describe] generator. Nothing is loaded before one is opened."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline.config import EnrichConfig, LLMConfig, OpenAIConfig
    from pipeline.llm.generator import Generator

NONE = "none"
"""Stands for no generator: nothing is enriched, or described."""


class GeneratorSettings(Protocol):
    """The settings that generators are made of."""

    @property
    def enrich(self) -> "EnrichConfig": ...
    @property
    def llm(self) -> "LLMConfig": ...
    @property
    def openai(self) -> "OpenAIConfig": ...


BeforeStart = Callable[[], None]
"""Called before a model is loaded, so that no other one is in memory beside it."""


def _retrieval(settings: GeneratorSettings, before_start: BeforeStart) -> "Generator":
    from pipeline.llm.retrieval import Retrieval

    return Retrieval(settings.enrich.exact_up_to)


def _cooccurrence(settings: GeneratorSettings, before_start: BeforeStart) -> "Generator":
    from pipeline.llm.cooccurrence import Cooccurrence

    return Cooccurrence(settings.enrich.prompt_share)


def _vllm(settings: GeneratorSettings, before_start: BeforeStart) -> "Generator":
    from pipeline.llm.vllm import VLLM

    return VLLM(settings.llm, before_start)


def _openai(settings: GeneratorSettings, before_start: BeforeStart) -> "Generator":
    from pipeline.llm.openai import OpenAI
    from pipeline.llm.openai_batch import OpenAIBatch

    return (OpenAIBatch if settings.openai.batch else OpenAI)(settings.llm, settings.openai)


BACKENDS: dict[str, Callable[[GeneratorSettings, BeforeStart], "Generator"]] = {
    "retrieval": _retrieval,
    "cooccurrence": _cooccurrence,
    "vllm": _vllm,
    "openai": _openai,
}


def open_generator(name: str, settings: GeneratorSettings, before_start: BeforeStart) -> "Generator":
    """Return the generator of this name, not started."""
    return BACKENDS[name](settings, before_start)
