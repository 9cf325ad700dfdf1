"""Read what an endpoint sent as a chat completion: its text, or why there is none."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.llm.endpoint import NO_COMPLETION
from pipeline.llm.generator import CUT, Reply, Request
from pipeline.llm.reading import has_form

REFUSAL = "refusal"
"""The error of a reply in which the model says that it will not answer."""
ONLY_REASONING = "only_reasoning"
"""The error of a reply that holds what the model thought, and no answer."""

_FILTERED = "content_filter"
_CUT = frozenset({"length", "max_tokens", "max_length", "max_output_tokens", "model_length"})
_ENDED = frozenset({
    "", "stop", "stop_sequence", "stop_token", "eos", "eos_token", "end_turn", "end", "endoftext", "complete",
    "completed", "finished", "done", "none", "null",
})  # fmt: skip
"""How servers call the end of a whole answer."""
_WORD = re.compile(r"[a-z_]{1,40}")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")

_OVERFLOW = re.compile(
    r"context[ _-]?(length|size|window|limit)"
    r"|(maximum|max)[ _](model|input|sequence|prompt)[ _]len"
    r"|(prompt|input|inputs|request|message|messages|tokens?)\W{1,3}(is|are) (too long|longer than)"
    r"|longer than the (maximum )?(model|context|prompt|input)"
    r"|too many (input |prompt )?tokens(?! per)"
    r"|(input|prompt) token count"
    r"|`inputs`.{0,40}must (be <=|have less than)"
    r"|input tokens.{0,40}exceed|range of input length|reduce the length of"
    r"|max_(seq|model)_len|max_num_tokens"
)
"""Words with which servers say that prompt and answer do not fit into the model's context."""
_OVERFLOW_CODE = re.compile(r"context_(length|size|window)|tokens_limit|string_above_max_length")

_STATUS_OF = (
    (r"rate_?limit|resource_?exhausted|throttl|too_?many_?requests", 429),
    (r"context_|invalid_?request|bad_?request|invalid_?argument|validation", 400),
    (r"authentication|unauthenticated|unauthorized|api_?key", 401),
    (r"permission|forbidden", 403),
    (r"not_?found", 404),
    (r"overloaded|unavailable|capacity", 503),
    (r"timeout|deadline", 504),
    (r"server_?error|internal", 500),
)
"""What kinds of error mean, where an endpoint gives no number."""


def read_completion(answer: Any, request: Request) -> Reply | None:
    """Return what a chat completion says to a request; None where it is no completion.

    A text of the form that the request asks for is the answer however it ended, but for the limit of tokens and the
    endpoint's filter. Another one fails with the word of its end, unless that is one for a whole answer.
    """
    choice = _first_choice(answer)
    message = _entry(choice, "message")
    if not isinstance(message, dict):
        if not isinstance(_entry(choice, "text"), str):
            return None
        message = {"content": _entry(choice, "text")}
    text, error = _text(message, request)
    usage = answer.get("usage")
    return Reply.read(
        text,
        _end(_entry(choice, "finish_reason"), text, request) or error,
        _entry(usage, "prompt_tokens"),
        _entry(usage, "completion_tokens"),
        _entry(_entry(usage, "prompt_tokens_details"), "cached_tokens"),
    )


def error_status(answer: Any) -> int | None:
    """Return the HTTP status that the error in a body stands for; 0 where it says none, None without an error."""
    for error in _errors(answer):
        for value in map(error.get, ("code", "status_code", "status", "http_status")):
            if not isinstance(value, bool) and re.fullmatch(r"[45]\d\d", str(value)):
                return int(str(value))
        kind = " ".join(str(error.get(name, "")) for name in ("code", "type", "status")).lower()
        return next((status for words, status in _STATUS_OF if re.search(words, kind)), 0)
    return None


def is_overflow(status: int, body: bytes) -> bool:
    """Say whether a request that failed with a status, or 0, was too long for the model's context."""
    is_refused = status in (0, 400, 422)
    said = body[:10_000].decode(errors="replace").lower() if is_refused or status >= 500 else ""
    words = _OVERFLOW.search(said) if is_refused else None  # what a server that fails says may pass
    return status == 413 or (words or _OVERFLOW_CODE.search(said)) is not None


def _errors(answer: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the error in a body, of OpenAI's shape or near it, or in its first choice."""
    for holder in (answer, _first_choice(answer)):
        error = _entry(holder, "error")
        if isinstance(error, dict):
            yield error
        elif error:
            yield {**holder, "type": error}
    if _entry(answer, "object") == "error" or (_entry(answer, "message") and _entry(answer, "code")):
        yield answer


def _text(message: Mapping[str, Any], request: Request) -> tuple[object, str | None]:
    """Return the text of a message; else why there is none, where that can be told."""
    content = message.get("content")
    refusal: object = message.get("refusal")
    if isinstance(content, dict):
        content = [content] if "type" in content else json.dumps(content)
    if isinstance(content, list) and content and all(isinstance(part, dict) for part in content):
        refusal = refusal or next((part["refusal"] for part in content if part.get("refusal")), None)
        shown = [part.get("text") for part in content if part.get("type") in (None, "text", "output_text")]
        texts = [text for text in shown if isinstance(text, str)]
        content = "".join(texts) if texts else None
    if isinstance(content, str) and content.strip():
        return content, None
    if refusal:
        return None, REFUSAL
    thoughts = [message[name] for name in _THOUGHTS if isinstance(message.get(name), str) and message[name].strip()]
    answer = next((thought for thought in thoughts if has_form(thought, request)), None)
    if answer is None and thoughts:
        return None, ONLY_REASONING
    return (content if answer is None else answer), None


def _end(finished: object, text: object, request: Request) -> str | None:
    """Return why a text is no answer by the way in which it ended; None where it may be one."""
    word = finished.lower() if isinstance(finished, str) else "" if finished is None else "?"
    if word == "length":
        return CUT
    if word == _FILTERED:
        return _FILTERED
    if word in _ENDED or (isinstance(text, str) and has_form(text, request)):
        return None
    if word in _CUT:
        return CUT
    return word if _WORD.fullmatch(word) else NO_COMPLETION


def _first_choice(answer: Any) -> Any:
    choices = _entry(answer, "choices")
    return choices[0] if isinstance(choices, list) and choices else None


def _entry(value: Any, name: str) -> Any:
    """Return an entry of a JSON object; None where there is none, or where it is no object."""
    return value.get(name) if isinstance(value, dict) else None
