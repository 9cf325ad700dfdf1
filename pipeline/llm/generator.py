"""The protocol `Generator`: what a generator is asked, what it replies, and what others need to know of it."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, TypedDict, TypeGuard

import pyarrow as pa

from data_lake.keyed_cache import KeyedCache

TOO_LONG = "too_long"
"""The error of a reply to a prompt that does not fit into the model's context."""

CUT = "cut"
"""The error of a reply that did not end within its `max_tokens`."""

NO_TEXT = "no_text"
"""The error of a reply whose text is none, or no Unicode."""

MOST_TOKENS = 10**9
"""A larger count of tokens is an error of the endpoint; two of this size still add up in 32 bits."""


class Message(TypedDict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Candidate:
    """An item that may be an answer, and what a prompt calls it."""

    item_id: str
    title: str


@dataclass(frozen=True)
class ItemsQuestion:
    """Which items of `to_domain` would the user choose who chose `item_ids` in `from_domain`?"""

    task: ClassVar[str] = "generate_items"
    user_id: str
    from_domain: str
    to_domain: str
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    answers: int
    """Items to name."""
    candidates: tuple[Candidate, ...] = ()
    """Those to choose from; none where any item may be named."""


ItemSource = Callable[[Sequence[ItemsQuestion]], list[list[str]]]
"""Gives for each question at most as many item ids as it asks for, the best first."""


@dataclass(frozen=True)
class DomainProfileQuestion:
    """What does the user prefer in one domain?"""

    task: ClassVar[str] = "profile_domain"
    user_id: str
    domain: str
    groups: tuple[tuple[str, ...], ...]
    """Titles of the user's latest items, cluster by cluster."""
    evidence: int
    """Real actions of the user in the domain."""
    inferred: bool
    """Whether none of the titles is of a real action."""
    words: int


@dataclass(frozen=True)
class DomainSummary:
    """What is known of a user in one domain."""

    domain: str
    text: str
    evidence: int


@dataclass(frozen=True)
class UserProfileQuestion:
    """What do these summaries of one user say together?"""

    task: ClassVar[str] = "profile_user"
    summaries: tuple[DomainSummary, ...]


@dataclass(frozen=True)
class DescriptionQuestion:
    """What is an item like, and what does it go with in the other domains?"""

    task: ClassVar[str] = "describe_item"
    domain: str
    title: str


Question = ItemsQuestion | DomainProfileQuestion | UserProfileQuestion | DescriptionQuestion


@dataclass(frozen=True)
class Request:
    """A question, and the chat that puts it to a language model, to be answered in JSON of `schema`.

    With `is_text` plain text answers, which the schema's only field holds to a length and nothing holds to a form.
    With `choices` nothing is to be written: the reply has, per choice, its log-probability as the answer, the mean over
    its tokens. `is_retry` marks the second request of a question whose first reply could not be used; the model does
    not see it.
    """

    question: Question
    messages: tuple[Message, ...]
    schema: Mapping[str, Any]
    max_tokens: int
    is_retry: bool = False
    choices: tuple[str, ...] = ()
    is_text: bool = False


@dataclass(frozen=True)
class Reply:
    """The text of an answer, or the reason why there is none: exactly one of `text` and `error` is set."""

    text: str | None
    error: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    item_ids: tuple[str, ...] = ()
    """The catalogue items that its answers name, one each, where the generator knows them."""

    @classmethod
    def read(
        cls, text: object, error: str | None, tokens_in: object = 0, tokens_out: object = 0, tokens_cached: object = 0
    ) -> Self:
        """Return what an endpoint or an engine answered, whatever that is, as a reply that any artifact can hold.

        Without an `error`, a `text` that is none fails with NO_TEXT. A count that is no number of tokens is 0.
        """
        counts = _count(tokens_in), _count(tokens_out), _count(tokens_cached)
        if error is None and _is_text(text):
            return cls(text, None, *counts)
        return cls(None, error or NO_TEXT, *counts)


def _is_text(value: object) -> TypeGuard[str]:
    """Say whether it is a string without lone surrogates, which no file can hold."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0


class Tokens(Protocol):
    """Cuts texts and measures prompts."""

    is_estimate: bool
    """Whether the model's own tokenizer is not known."""

    def quoted(self, texts: Iterable[str], tokens: int) -> Mapping[str, str]:
        """Return each text as one line of JSON (see `prompts.quoted`), cut to about `tokens` tokens."""

    def fits(self, requests: Sequence[Request]) -> list[bool]:
        """Say of each request whether prompt and answer fit into the model's context."""

    def count(self, requests: Sequence[Request]) -> list[int]:
        """Return the tokens of each request's prompt, or prompts: there is one for each of its choices."""


OnReply = Callable[[int, Reply], None]
"""Gets the index of a request and its reply as soon as that arrives; calls may come from several threads."""


def no_listener(index: int, reply: Reply) -> None:
    """Listen to no reply."""


class Generator(Protocol):
    """Answers requests in their order; one that fails is a `Reply` with `error`, never an exception.

    Everything that others need to know of a generator stands here: no other code tells generators apart.
    """

    asks_model: bool
    """Whether a language model is asked: then replies are cached, failures counted, and `edt plan` says the cost."""
    reads: tuple[str, ...]
    """The artifacts that it answers from, which `read` must give it before the first request."""

    @property
    def last_words(self) -> str:
        """The message, in one line, with which an endpoint refused or failed a request last; else empty."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the replies depend on besides the request: model, revision, sampling. Never a secret."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What an artifact of replies depends on besides its inputs and the settings of its stage."""

    @property
    def tokens(self) -> Tokens:
        """What cuts titles and measures prompts."""

    def read(self, parts: Mapping[str, Iterable[pa.Table]]) -> None:
        """Take the parts of the artifacts to answer from, by name."""

    def remember_in(self, cache: KeyedCache) -> None:
        """Take the cache in which to keep what was sent and is not answered yet, for the run after a killed one."""

    def __call__(self, requests: Sequence[Request], on_reply: OnReply = no_listener) -> list[Reply]:
        """Return one reply per request, in the same order; `on_reply` gets each one as soon as it is there."""

    def counts(self) -> dict[str, Any]:
        """Return what was counted since the last call, as it stands in a manifest's figures."""

    def close(self, patience: float = 15.0) -> None:
        """End what runs and free its memory, within `patience` seconds; the next request starts it again."""


def prompt_hash(request: Request, identity: Mapping[str, Any]) -> str:
    """Return the key under which a reply is kept: the same question to the same model has the same hash.

    How long the answer may be is no part of it: a whole reply is the same whatever room was left.
    """
    choices = {"choices": list(request.choices)} if request.choices else {}
    text = {"is_text": True} if request.is_text else {}
    return _hash(request, identity, **choices, **text)


def prompt_hash_with_room(request: Request, identity: Mapping[str, Any]) -> str:
    """Return the key of versions before 0.2, which `max_tokens` was a part of."""
    return _hash(request, identity, max_tokens=request.max_tokens)


def _hash(request: Request, identity: Mapping[str, Any], **more: Any) -> str:
    asked = {
        "identity": dict(identity),
        "schema": dict(request.schema),
        "messages": [dict(message) for message in request.messages],
        **more,
    }
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
