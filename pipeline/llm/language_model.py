"""What the generators that ask a language model have in common."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from data_lake.keyed_cache import KeyedCache
from pipeline.config import LLMConfig
from pipeline.llm.generator import Request
from pipeline.llm.prompts import PROFILE_RETRY, load_prompt


class LanguageModel:
    """What each `Generator` that asks the language model of [llm] extends."""

    asks_model = True
    reads: tuple[str, ...] = ()

    def __init__(self, llm: LLMConfig) -> None:
        self.llm = llm
        self.last_words = ""

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Generator`."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The model, how much text it is given, and how it is asked again."""
        return {
            "llm": dict(self.identity), "max_model_len": self.llm.max_model_len,
            "retry_prompts": {form: load_prompt(name) for form, name in PROFILE_RETRY.items()},
        }  # fmt: skip

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of [llm] that decide how tokens are drawn."""
        greedy = {"temperature": self.llm.temperature}
        return greedy if self.llm.temperature == 0 else greedy | {"top_p": self.llm.top_p, "seed": self.llm.seed}

    def read(self, parts: Mapping[str, Iterable[pa.Table]]) -> None:
        """Do nothing: a language model knows its items by itself."""

    def remember_in(self, cache: KeyedCache) -> None:
        """Do nothing: what is sent is answered within the call."""

    def counts(self) -> dict[str, Any]:
        """Count nothing: `CachedGenerator` does."""
        return {}


def by_prompt(requests: Sequence[Request]) -> list[int]:
    """Return the indices of the requests, those with equal beginnings side by side: a prefix cache serves them."""
    return sorted(range(len(requests)), key=lambda i: [message["content"] for message in requests[i].messages])
