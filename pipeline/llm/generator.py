"""One question to a language model, one answer, and the protocol of whoever answers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict

TOO_LONG = "too_long"
"""The error of a reply to a prompt that does not fit into the model's context."""


class Message(TypedDict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Request:
    """A chat to answer in JSON of `schema`.

    `facts` is what the prompt was rendered from: `retrieval` answers from it, a language model never sees it.
    `is_retry` marks the second request of a question whose first reply could not be used; the model does not see it.
    """

    task: str
    messages: tuple[Message, ...]
    schema: Mapping[str, Any]
    max_tokens: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_retry: bool = False


@dataclass(frozen=True)
class Reply:
    """The text of an answer, or the reason why there is none: exactly one of `text` and `error` is set."""

    text: str | None
    error: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0


class Generate(Protocol):
    """Answers requests in their order; one that fails is a `Reply` with `error`, never an exception."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the answers depend on besides the request: model, revision, sampling. Never a secret."""

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply per request, in the same order."""


def prompt_hash(request: Request, identity: Mapping[str, Any]) -> str:
    """Return the key under which a reply is kept: the same question to the same model has the same hash."""
    asked = {
        "identity": dict(identity),
        "schema": dict(request.schema),
        "max_tokens": request.max_tokens,
        "messages": [dict(message) for message in request.messages],
    }
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
