"""Ask a generator, check each reply, and ask once more for a shorter one where it cannot be used."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from data_lake.errors import UserError
from pipeline.llm.generator import TOO_LONG, Generator, Reply, Request, Tokens, prompt_hash

ASKED_TWICE = frozenset({"not_json", "schema", "cut", "empty", "repeated"})
"""What a second, shorter request may fix; other errors of a generator are not asked again here."""

ENDS = (".", "!", "?", "…", "。")
"""How a sentence ends."""

DROPPED = (2, 8, 32)
"""Texts that a prompt too long for an endpoint loses from one request to the next, besides those lost before."""


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
    item_ids: tuple[str, ...] = ()
    """The catalogue item of each text in `value`, where the generator knows them; else empty."""


Build = Callable[[int, bool, int], Request | None]
"""Makes the request of an index: (index, is_retry, dropped), without the `dropped` least telling of its texts."""


def ask(generator: Generator, count: int, build: Build, reason: str = "") -> list[Answer]:
    """Return `count` answers, in order; one for which `build` makes no request fails with `reason`, unasked.

    A request too long for the model loses one text after the other until it fits. Where a reply is cut, empty, repeats
    itself or breaks its schema, a shorter one is asked for once; where an endpoint finds a prompt too long, it is asked
    again with fewer texts.
    """
    answers = [Answer(None, None, (), reason)] * count
    for index, answer in _asked(generator, range(count), False, build).items():
        answers[index] = answer
    again = [index for index, answer in enumerate(answers) if answer.reason in ASKED_TWICE]
    for index, answer in _asked(generator, again, True, build).items():
        first = answers[index]
        answers[index] = Answer(
            answer.request,
            answer.reply,
            answer.value,
            answer.reason,
            first.tokens_in + answer.tokens_in,
            first.tokens_out + answer.tokens_out,
            first.tokens_cached + answer.tokens_cached,
        )
    return answers


def _asked(generator: Generator, indices: Iterable[int], is_retry: bool, build: Build) -> dict[int, Answer]:
    """Return the answers to the requests that there are; one too long for an endpoint loses texts."""

    def built(index: int, dropped: int) -> Request | None:
        request = build(index, is_retry, dropped)
        return request and replace(request, is_retry=is_retry)

    requests, lost = _fitted(indices, is_retry, built, generator.tokens)
    answers = _ask(generator, requests)
    for more in DROPPED:
        shorter = {}
        for index, answer in answers.items():
            if answer.reason == TOO_LONG and answer.request is not None:
                request = built(index, lost[index] + more)
                if request is not None and request.messages != answer.request.messages:
                    shorter[index] = request
        answers |= _ask(generator, shorter)
    return answers


def _fitted(
    indices: Iterable[int], is_retry: bool, built: Callable[[int, int], Request | None], tokens: Tokens
) -> tuple[dict[int, Request], dict[int, int]]:
    """Return the requests, each short enough for the model, and how many texts each one lost."""
    requests = {index: request for index in indices if (request := built(index, 0)) is not None}
    lost = dict.fromkeys(requests, 0)
    over, dropped = list(requests), 0
    while over := [
        index for index, fits in zip(over, tokens.fits([requests[each] for each in over]), strict=True) if not fits
    ]:
        dropped += 1
        for index in over:
            shorter = built(index, dropped)
            if shorter is not None and shorter.messages != requests[index].messages:
                requests[index], lost[index] = shorter, dropped
            elif is_retry:  # the first reply's reason stands
                del requests[index]
            else:
                raise UserError(
                    f"The instructions of the task {requests[index].question.task} and one short text need "
                    f"{tokens.count([requests[index]])[0]} tokens: with {requests[index].max_tokens} for the answer "
                    "that does not fit into [llm] max_model_len. Raise it, or lower max_tokens or title_tokens."
                )
        over = [index for index in over if index in requests]
    return requests, lost


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
    """Return a manifest's figures on an artifact of replies: how many are ok, the failures by reason, the tokens."""
    tokens = {name: sum(table[name].to_pylist()) for name in ("tokens_in", "tokens_out", "tokens_cached")}
    failed = Counter(reason for reason in table["reason"].to_pylist() if reason)
    return {"ok": table.num_rows - failed.total(), "failed": dict(sorted(failed.items())), **tokens}


def read_reply(text: str, request: Request) -> tuple[str, ...]:
    """Return the texts that a reply holds: the item descriptions, or the one profile.

    Raises BadReply: `not_json`; `schema` where it is another object than the request's schema asks for; `empty` where
    a text is blank or there is none; `cut` where the schema ended a profile inside a sentence, unless it is the second
    one, which is better than none; `repeated` where two texts are the same.
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
    if not many and not request.is_retry and len(texts[0]) == longest and not clean[0].endswith(ENDS):
        raise BadReply("cut")
    if len(set(clean)) < len(clean):
        raise BadReply("repeated")
    return clean


def worth_keeping(reply: Reply, request: Request) -> bool:
    """Say whether a reply holds for later runs: a good one, and a bad one that a retry follows.

    What is too long is for the endpoint to say each time: it may be started with a longer context.
    """
    _, reason = _read(reply, request)
    return reason is None or (not request.is_retry and reason in ASKED_TWICE)


def _read(reply: Reply, request: Request) -> tuple[tuple[str, ...], str | None]:
    """Return the texts that a reply holds, or none and the reason."""
    if reply.text is None or reply.error is not None:
        return (), reply.error
    try:
        return read_reply(reply.text, request), None
    except BadReply as bad:
        return (), str(bad)


def _ask(generator: Generator, requests: Mapping[int, Request]) -> dict[int, Answer]:
    """Return the answer to each request, by its index."""
    replies = generator(list(requests.values())) if requests else []
    answers = {}
    for (index, request), reply in zip(requests.items(), replies, strict=True):
        value, reason = _read(reply, request)
        text = None if reply.text is None else reply.text.encode(errors="replace").decode()
        tokens = (reply.tokens_in, reply.tokens_out, reply.tokens_cached)
        answers[index] = Answer(request, text, value, reason, *tokens, item_ids=reply.item_ids if value else ())
    return answers
