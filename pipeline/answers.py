"""Ask a generator, hold each reply to its form, and ask once more, more tightly, where it was not."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.llm.generate import Generate, Request, prompt_hash

ASKED_TWICE = frozenset({"not_json", "schema", "cut", "empty", "repeated"})
"""What a second, tighter request may mend; other errors of a generator are not asked again here."""


class BadReply(Exception):
    """A reply that cannot be used; the message is the reason, one word."""


@dataclass(frozen=True)
class Answer:
    """What came of a request: `value` is the parsed reply, empty if it failed, and then `reason` says why."""

    request: Request | None
    reply: str | None
    value: tuple[str, ...]
    reason: str | None
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0


def ask(
    generate: Generate, requests: Sequence[Request | None], tighter: Callable[[int], Request], reason: str = ""
) -> list[Answer]:
    """Return one answer per request, in order; a place without a request fails with `reason`, unasked.

    A reply that is cut, empty, repeats itself or breaks its schema is asked for once more by `tighter` of its place.
    """
    answers = [Answer(None, None, (), reason)] * len(requests)
    asked = [(place, request) for place, request in enumerate(requests) if request is not None]
    for place, answer in _ask(generate, asked):
        answers[place] = answer
    again = [(place, tighter(place)) for place, answer in enumerate(answers) if answer.reason in ASKED_TWICE]
    for place, answer in _ask(generate, again):
        first = answers[place]
        answers[place] = Answer(
            answer.request,
            answer.reply,
            answer.value,
            answer.reason,
            first.tokens_in + answer.tokens_in,
            first.tokens_out + answer.tokens_out,
            first.tokens_cached + answer.tokens_cached,
        )
    return answers


def reply_columns(answers: Sequence[Answer], identity: Mapping[str, Any]) -> dict[str, pa.Array]:
    """Return the columns that every artifact of replies has; `prompt_hash` is that of the last request made."""
    hashes = ["" if answer.request is None else prompt_hash(answer.request, identity) for answer in answers]
    return {
        "prompt_hash": pa.array(hashes, pa.string()),
        "reply": pa.array([answer.reply for answer in answers], pa.string()),
        "status": pa.array(["failed" if answer.reason else "ok" for answer in answers], pa.string()),
        "reason": pa.array([answer.reason for answer in answers], pa.string()),
        "tokens_in": pa.array([answer.tokens_in for answer in answers], pa.int32()),
        "tokens_out": pa.array([answer.tokens_out for answer in answers], pa.int32()),
        "tokens_cached": pa.array([answer.tokens_cached for answer in answers], pa.int32()),
    }


def figures(table: pa.Table) -> dict[str, Any]:
    """Return what a manifest tells of an artifact of replies: how many are ok, the failures by reason, the tokens."""
    tokens = {name: sum(table[name].to_pylist()) for name in ("tokens_in", "tokens_out", "tokens_cached")}
    failed = Counter(reason for reason in table["reason"].to_pylist() if reason)
    return {"ok": table.num_rows - failed.total(), "failed": dict(sorted(failed.items())), **tokens}


def read_reply(text: str, request: Request) -> tuple[str, ...]:
    """Return the texts that a reply holds: the item descriptions, or the one profile.

    Raises BadReply: `not_json`; `schema` where it is another object than the request's schema asks for; `empty` where
    a text is blank or there is none; `repeated` where two texts are the same.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise BadReply("not_json") from error
    [(name, schema)] = request.schema["properties"].items()
    if not isinstance(value, dict) or set(value) != {name}:
        raise BadReply("schema")
    many = schema["type"] == "array"
    texts = value[name] if many else [value[name]]
    longest = (schema["items"] if many else schema)["maxLength"]
    if not isinstance(texts, list) or not all(isinstance(text, str) and len(text) <= longest for text in texts):
        raise BadReply("schema")
    if many and len(texts) > schema["maxItems"]:
        raise BadReply("schema")
    clean = tuple(text.strip() for text in texts)
    if not clean or not all(clean):
        raise BadReply("empty")
    if len(set(clean)) < len(clean):
        raise BadReply("repeated")
    return clean


def usable(text: str, request: Request) -> bool:
    """Say whether a reply's text can be read."""
    try:
        read_reply(text, request)
    except BadReply:
        return False
    return True


def _ask(generate: Generate, asked: Sequence[tuple[int, Request]]) -> list[tuple[int, Answer]]:
    """Ask in an order that puts equal instructions next to each other, so that a model reads them once."""
    asked = sorted(asked, key=lambda pair: pair[1].messages[0]["content"])
    replies = generate([request for _, request in asked]) if asked else []
    answers = []
    for (place, request), reply in zip(asked, replies, strict=True):
        value: tuple[str, ...] = ()
        reason = reply.error
        if reply.text is not None and reason is None:
            try:
                value = read_reply(reply.text, request)
            except BadReply as bad:
                reason = str(bad)
        text = None if reply.text is None else reply.text.encode(errors="replace").decode()
        tokens = (reply.tokens_in, reply.tokens_out, reply.tokens_cached)
        answers.append((place, Answer(request, text, value, reason, *tokens)))
    return answers
