"""Read what a model replied: whether it has the form that was asked for, and which of its answers say something."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pipeline.llm.generator import CUT, DescriptionQuestion, DomainProfileQuestion, ItemsQuestion, Request

ECHO, COPIED, REPEATED, EMPTY = "echo", "copied", "repeated", "empty"
"""Why an answer says nothing: it is text of the prompt, a title that was shown, said before in the reply, or blank."""
SAME = "same"
"""Why a reply says nothing that is good by itself: many different prompts got it (see `usefulness`)."""

ENDS = (".", "!", "?", "…", "。")
"""How a sentence ends."""

_BAD_FORM = ("not_json", "schema")
_MOST_BRACES = 100
"""Braces of a text that may begin its object."""
_JSON = json.JSONDecoder(strict=False)  # a string may hold a raw line end
_FENCE_NAME = re.compile(r"\w+[ \t]*\n")
_THOUGHT = r"think|thinking|thought|reasoning"
_THOUGHT_BEGINS = re.compile(rf"<({_THOUGHT})>|\[THINK\]", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(rf"</({_THOUGHT})>|\[/THINK\]|<\|message\|>", re.IGNORECASE)
_LEFT_OFF = re.compile(r"(…|\.\.\.)\W*$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


class BadReply(Exception):
    """A reply that cannot be used; the message is the reason, one word, and `dropped` has that of each answer in it."""

    def __init__(self, reason: str, dropped: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.dropped = tuple(dropped)


@dataclass(frozen=True)
class Reading:
    """The texts of a reply, and the reasons of the answers in it that were left out.

    `item_ids` are the catalogue items of the texts where candidates were chosen from; else empty. `fields` are those of
    the reply in which the texts stand, where it has several; else empty.
    """

    texts: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    item_ids: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()


def read_reply(text: str, request: Request, is_judged: bool = True) -> Reading:
    """Return what a reply holds: the item descriptions, the one profile, or the phrases of a description.

    Raises BadReply: `not_json`; `schema` where it is another object than the request's schema asks for; `cut` where the
    schema ended a profile inside a sentence, unless it is the second one; and the most frequent reason of its answers
    where none is left, of a description in one of its fields.

    What a language model says is judged: an answer that is `empty`, `repeated`, text of the prompt (`echo`) or a title
    that the prompt shows (`copied`) is left out. Texts are compared without case, white space and punctuation. A text
    that the schema ended loses its last word, which may be half of one; where it is a single word, it stays. What else
    answers is taken by its word, or fails where a text is blank or `repeated`.

    Of candidates the titles are returned. Numbers that count up from 1 are no choice: `echo`. A phrase about an item
    is `copied` where it lies within the item's title.
    """
    if isinstance(request.question, DescriptionQuestion):
        return _description(text, request)
    [(name, schema)] = request.schema["properties"].items()
    question = request.question
    if isinstance(question, ItemsQuestion) and question.candidates:
        return (_likeliest if request.choices else _chosen)(_field(text, name), question)
    if schema["type"] == "array":
        longest = schema["items"]["maxLength"]
        texts = _texts(_field(text, name), longest)
        if len(texts) > schema["maxItems"]:
            raise BadReply("schema")
        return _items(texts, longest, request) if is_judged else _unjudged(texts)
    if request.is_text and not _plain(text).startswith("{"):
        profile = _plain(text)[: schema["maxLength"]]
    else:
        [profile] = _texts([_field(text, name)], schema["maxLength"])
    return _profile(profile, schema["maxLength"], request) if is_judged else _unjudged([profile])


def has_form(text: str, request: Request) -> bool:
    """Say whether a text holds a JSON object as the request's schema asks for it, whatever that says."""
    try:
        read_reply(text, replace(request, is_text=False))
    except BadReply as bad:
        return str(bad) not in _BAD_FORM
    return True


@lru_cache(maxsize=1024)
def folded(text: str) -> str:
    """Return the words of a text in lower case, one space between them."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _chosen(numbers: Any, question: ItemsQuestion) -> Reading:
    """Return the candidates that a reply names by their numbers."""
    known = range(1, len(question.candidates) + 1)
    if not isinstance(numbers, list) or len(numbers) > question.answers:
        raise BadReply("schema")
    if not all(type(number) is int and number in known for number in numbers):
        raise BadReply("schema")
    if not numbers:
        raise BadReply(EMPTY)
    distinct = list(dict.fromkeys(numbers))
    dropped = [REPEATED] * (len(numbers) - len(distinct))
    if len(distinct) > 2 and distinct == list(known[: len(distinct)]):
        raise BadReply(ECHO, [ECHO] * len(distinct) + dropped)
    return _of_candidates(question, [number - 1 for number in distinct], dropped)


def _likeliest(scores: Any, question: ItemsQuestion) -> Reading:
    """Return as many candidates as are asked for, those with the highest scores, at equal ones the first."""
    if not isinstance(scores, list) or len(scores) != len(question.candidates):
        raise BadReply("schema")
    if not all(type(score) in (int, float) and abs(score) < math.inf for score in scores):
        raise BadReply("schema")
    best = sorted(range(len(scores)), key=lambda index: -scores[index])
    return _of_candidates(question, best[: question.answers])


def _of_candidates(question: ItemsQuestion, which: Sequence[int], dropped: Sequence[str] = ()) -> Reading:
    chosen = [question.candidates[index] for index in which]
    return Reading(tuple(each.title for each in chosen), tuple(dropped), tuple(each.item_id for each in chosen))


def _items(texts: Sequence[str], longest: int, request: Request) -> Reading:
    kept: dict[str, str] = {}
    dropped = _sift(texts, longest, request, kept)
    if not kept:
        raise BadReply(_most_frequent(dropped), dropped)
    return Reading(tuple(kept.values()), tuple(dropped))


def _description(text: str, request: Request) -> Reading:
    schemas = request.schema["properties"]
    values = _fields(text, schemas)
    kept: dict[str, str] = {}
    fields: list[str] = []
    dropped: list[str] = []
    hollow = []
    for name, schema in schemas.items():
        longest = schema["items"]["maxLength"]
        texts = _texts(values[name], longest)
        if len(texts) > schema["maxItems"]:
            raise BadReply("schema")
        lost = _sift(texts, longest, request, kept)
        if len(kept) == len(fields):
            hollow.append(_most_frequent(lost))
        fields += [name] * (len(kept) - len(fields))
        dropped += lost
    if hollow:
        raise BadReply(hollow[0], dropped)
    return Reading(tuple(kept.values()), tuple(dropped), fields=tuple(fields))


def _sift(texts: Sequence[str], longest: int, request: Request, kept: dict[str, str]) -> list[str]:
    """Add the texts that say something to `kept`, by their words, and return the reasons of the others."""
    dropped = []
    for text in texts:
        is_cut = _is_cut(text, longest)
        clean = _without_last_word(text) if is_cut else text.strip()
        key = folded(clean)
        if reason := REPEATED if key in kept else _hollow(clean, is_cut, request):
            dropped.append(reason)
        else:
            kept[key] = clean
    return dropped


def _most_frequent(dropped: Sequence[str]) -> str:
    return Counter(dropped).most_common(1)[0][0] if dropped else EMPTY


def _unjudged(texts: Sequence[str]) -> Reading:
    clean = tuple(text.strip() for text in texts)
    if not clean or not all(clean):
        raise BadReply(EMPTY)
    if len(set(clean)) < len(clean):
        raise BadReply(REPEATED)
    return Reading(clean)


def _profile(text: str, longest: int, request: Request) -> Reading:
    clean, is_cut = text.strip(), _is_cut(text, longest)
    if not clean:
        raise BadReply(EMPTY, [EMPTY])
    if is_cut and not request.is_retry:
        raise BadReply(CUT)
    if is_cut:
        clean = _without_last_word(text)
    if reason := _hollow(clean, is_cut, request):
        raise BadReply(reason, [reason])
    return Reading((clean,))


def _field(text: str, name: str) -> Any:
    """Return the only field of the JSON object in a reply."""
    return _fields(text, [name])[name]


def _fields(text: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the JSON object in a reply, which has these fields and no other."""
    try:
        value = _object(_plain(text))
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise BadReply("not_json") from error
    if not isinstance(value, dict) or set(value) != set(names):
        raise BadReply("schema")
    return value


def _plain(text: str) -> str:
    """Return a reply without what a model thought before it, and without a fence around it."""
    text = text.strip()
    if not text.startswith("{"):
        ends = [end.end() for end in _THOUGHT_ENDS.finditer(text)]
        if not ends and _THOUGHT_BEGINS.match(text):
            return ""
        text = text[max(ends, default=0) :].strip()
    if len(text) >= 6 and text.startswith("```") and text.endswith("```"):
        name = _FENCE_NAME.match(text, 3)
        text = text[name.end() if name else 3 : -3].strip()
    return text


def _object(text: str) -> Any:
    """Return the JSON value that a text is, else the one object that stands among other words."""
    try:
        return _JSON.decode(text)
    except ValueError:
        pass
    found: list[Any] = []
    start = text.find("{")
    for _ in range(_MOST_BRACES):
        if start < 0:
            break
        try:
            value, end = _JSON.raw_decode(text, start)
        except ValueError:
            end = start + 1
        else:
            if value and value not in found:
                found.append(value)
        start = text.find("{", end)
    if len(found) != 1:
        raise ValueError("not one object")
    return found[0]


def _texts(values: Any, longest: int) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(text, str) and len(text) <= longest for text in values):
        raise BadReply("schema")
    return values


def _is_cut(text: str, longest: int) -> bool:
    """Say whether the schema ended a text."""
    return len(text) == longest and not text.rstrip().endswith(ENDS)


def _without_last_word(text: str) -> str:
    words = text.rsplit(None, 1) if text.strip() else [text]
    return words[0].rstrip(" ,;:&/([-") if len(words) == 2 and text[-1:].strip() else text.strip()


def _hollow(text: str, is_cut: bool, request: Request) -> str | None:
    """Return why an answer says nothing that its prompt did not say."""
    said = folded(text)
    if not said:
        return EMPTY
    if _copies(said, is_cut or _LEFT_OFF.search(text) is not None, request):
        return COPIED
    return ECHO if _echoes(said, request) else None


def _copies(said: str, is_beginning: bool, request: Request) -> bool:
    """Say whether an item is one that was shown, or its beginning; whether another text is a part or list of such."""
    match request.question:
        case ItemsQuestion(titles=titles):
            return _copies_one(said, is_beginning, [folded(title) for title in titles])
        case DomainProfileQuestion(groups=groups):
            shown = [folded(title) for group in groups for title in group]
            own = _without_titles(said, shown)
            return not own or _copies_one(own, is_beginning, shown) or any(_within(said, title) for title in shown)
        case DescriptionQuestion(title=title):
            return _within(said, title)
    return False  # the one description that there is may well be the user's


def _copies_one(said: str, is_beginning: bool, titles: Sequence[str]) -> bool:
    return any(said == title or (is_beginning and title.startswith(said)) for title in titles)


def _without_titles(said: str, titles: Sequence[str]) -> str:
    """Return what is left of a folded text once each of the titles is taken out, of two that overlap the longer."""
    longest_first = sorted(filter(None, titles), key=len, reverse=True)
    found = rf"(?<!\S)(?:{'|'.join(map(re.escape, longest_first))})(?!\S)"
    return " ".join(re.sub(found, "", said).split()) if longest_first else said


def _echoes(said: str, request: Request) -> bool:
    """Say whether it lies within the instructions, or within the user's part but not within a text shown there."""
    for message in request.messages:
        text = message["content"]
        if _within(said, text):
            shown = [] if message["role"] == "system" else _STRING.findall(text)
            return not any(_within(said, each) for each in shown)
    return False


def _within(said: str, text: str) -> bool:
    return f" {said} " in f" {folded(text)} "
