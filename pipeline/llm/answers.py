"""Ask a generator, check each reply, and ask once more for a shorter one where it cannot be used."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from data_lake.errors import UserError
from pipeline.llm.generator import CUT, TOO_LONG, Generator, Reply, Request, Tokens, prompt_hash
from pipeline.llm.prompts import DESCRIPTION
from pipeline.llm.reading import COPIED, ECHO, EMPTY, REPEATED, BadReply, Reading, read_reply

ASKED_TWICE = frozenset({"not_json", "schema", CUT, EMPTY, ECHO, COPIED, REPEATED})
"""What a second, shorter request may fix; other errors of a generator are not asked again here."""

DROPPED = (2, 8, 32)
"""Texts that a prompt too long for an endpoint loses from one request to the next, besides those lost before."""


@dataclass(frozen=True)
class Answer:
    """What came of a request: `value` is the parsed reply, empty if it failed, and then `reason` says why.

    `dropped` has the reason of each answer of the reply that says nothing and was left out.
    """

    request: Request | None
    reply: str | None
    value: tuple[str, ...]
    reason: str | None
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    dropped: tuple[str, ...] = ()
    item_ids: tuple[str, ...] = ()
    """The catalogue item of each text in `value`, where the generator knows them; else empty."""
    fields: tuple[str, ...] = ()
    """The field of the reply in which each text in `value` stands, where it has several; else empty."""


Build = Callable[[int, bool, int], Request | None]
"""Makes the request of an index: (index, is_retry, dropped), without the `dropped` least telling of its texts."""


def ask(generator: Generator, count: int, build: Build, reason: str = "") -> list[Answer]:
    """Return `count` answers, in order; one for which `build` makes no request fails with `reason`, unasked.

    A request too long for the model loses one text after the other until it fits. Where a reply is cut, breaks its
    schema or says nothing (see `reading`), a shorter one is asked for once; where an endpoint finds a prompt too long,
    it is asked again with fewer texts.
    """
    answers = [Answer(None, None, (), reason)] * count
    for index, answer in _asked(generator, range(count), False, build).items():
        answers[index] = answer
    again = [index for index, answer in enumerate(answers) if answer.reason in ASKED_TWICE]
    for index, answer in _asked(generator, again, True, build).items():
        first = answers[index]
        answers[index] = replace(
            answer,
            tokens_in=first.tokens_in + answer.tokens_in,
            tokens_out=first.tokens_out + answer.tokens_out,
            tokens_cached=first.tokens_cached + answer.tokens_cached,
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
        "dropped": pa.array([answer.dropped for answer in answers], pa.list_(pa.string())),
    }


def figures(table: pa.Table) -> dict[str, Any]:
    """Return a manifest's figures on an artifact of replies: how many are ok, failures by reason, tokens, answers.

    `answers` are those that were kept, `dropped` those of the last replies that say nothing, by reason.
    """
    tokens = {name: sum(table[name].to_pylist()) for name in ("tokens_in", "tokens_out", "tokens_cached")}
    failed = Counter(reason for reason in table["reason"].to_pylist() if reason)
    dropped = Counter(reason for reasons in table["dropped"].to_pylist() for reason in reasons)
    return {
        "ok": table.num_rows - failed.total(),
        "failed": dict(sorted(failed.items())),
        **tokens,
        "answers": sum(map(len, answers_of(table))),
        "dropped": dict(sorted(dropped.items())),
    }


def answers_of(table: pa.Table) -> list[tuple[str, ...]]:
    """Return the answers that each row keeps: items, the phrases of a description, or the one profile."""
    if "answers" in table.column_names:
        return [tuple(texts) for texts in table["answers"].to_pylist()]
    if set(DESCRIPTION) <= set(table.column_names):
        fields = (table[name].to_pylist() for name in DESCRIPTION)
        return [tuple(phrase for phrases in row for phrase in phrases) for row in zip(*fields, strict=True)]
    return [() if text is None else (text,) for text in table["text"].to_pylist()]


def worth_keeping(reply: Reply, request: Request, is_deterministic: bool = False) -> bool:
    """Say whether a reply holds for later runs: a good one, and a bad one that a retry follows.

    From a model that says the same each time, a bad one holds as the last word, too. What is too long is for the
    endpoint to say each time: it may be started with a longer context.
    """
    _, reason = _read(reply, request, is_judged=True)
    return reason is None or (reason in ASKED_TWICE and (is_deterministic or not request.is_retry))


def _read(reply: Reply, request: Request, is_judged: bool) -> tuple[Reading, str | None]:
    """Return what a reply holds; where that is nothing, the reason."""
    if reply.text is None or reply.error is not None:
        return Reading(()), reply.error
    try:
        return read_reply(reply.text, request, is_judged), None
    except BadReply as bad:
        return Reading((), bad.dropped), str(bad)


def _ask(generator: Generator, requests: Mapping[int, Request]) -> dict[int, Answer]:
    """Return the answer to each request, by its index."""
    replies = generator(list(requests.values())) if requests else []
    answers = {}
    for (index, request), reply in zip(requests.items(), replies, strict=True):
        reading, reason = _read(reply, request, generator.asks_model)
        text = None if reply.text is None else reply.text.encode(errors="replace").decode()
        tokens = (reply.tokens_in, reply.tokens_out, reply.tokens_cached)
        item_ids = (reading.item_ids or reply.item_ids) if reading.texts else ()
        answers[index] = Answer(
            request, text, reading.texts, reason, *tokens, reading.dropped, item_ids, reading.fields
        )
    return answers
