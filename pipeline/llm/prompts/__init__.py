"""The prompts: Markdown texts beside this file, and how a text becomes the two messages of a chat.

A text has two parts, divided by a line that holds only `---`: the fixed instructions (first, so that a model's prefix
cache serves them to every user) and the user's own part. Slots are written `$name`; braces need no escaping.

Titles and replies are untrusted. Each enters a prompt as one JSON string on one line (`quoted`), so nothing in it can
end its line, its quotes, or its turn in the chat.
"""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.llm.generator import Message

DIVIDER = "\n---\n"
ANSWER_CHARACTERS = 120
"""The longest item description that the reply schema allows."""
PHRASE_CHARACTERS = 60
"""The longest phrase of a description of an item that the reply schema allows."""
NAME_CHARACTERS = 60
"""The longest name of a domain that a prompt shows."""
DESCRIPTION = ("attributes", "goes_with")
"""The fields of a description of an item, each a list of phrases."""

_WORD = re.compile(rf"[\w-]{{1,{NAME_CHARACTERS}}}")
SLOTS: dict[str, frozenset[str]] = {
    "generate_items": frozenset({"from_domain", "to_domain", "answers", "titles", "candidates"}),
    "choose_items": frozenset({"from_domain", "to_domain", "answers", "titles", "candidates"}),
    "score_items": frozenset({"from_domain", "to_domain", "titles"}),
    "profile_domain": frozenset({"domain", "words", "items", "reply"}),
    "profile_user": frozenset({"words", "profiles", "reply"}),
    "describe_item": frozenset({"domain", "other_domains", "attributes", "goes_with", "title"}),
}
"""The slots of each prompt; a text must use those for the user's part, and may use the others."""

_USERS_SLOTS = {
    "generate_items": ["titles"], "choose_items": ["titles", "candidates"], "score_items": ["titles"],
    "profile_domain": ["items"], "profile_user": ["profiles"], "describe_item": ["title"],
}  # fmt: skip
PROFILE_REPLY = {
    "json": 'Reply with JSON only: one object whose only field, "profile", is what you write.',
    "text": "Reply with what you write and nothing else: no JSON, no title, no list.",
}
"""How a prompt asks for the form of a profile."""
PROFILE_RETRY = {"json": "retry", "text": "retry_text"}
"""The text that asks for a shorter one."""

# What chat templates and tokenizers take for the end of a turn: <|im_end|>, </s>, <start_of_turn>, [INST], [gMASK], ...
_CONTROL = re.compile(r"<|\[(?=/?[A-Za-z_]\w*\])")


def load_prompt(name: str) -> str:
    """Return the text of `pipeline/llm/prompts/<name>.md`."""
    return files("pipeline.llm.prompts").joinpath(f"{name}.md").read_text(encoding="utf-8").strip() + "\n"


def check_prompt(name: str, text: str) -> str:
    """Return `text`; raise ValueError if it lacks a part or the user's slot, or has a slot that we do not know."""
    parts = text.split(DIVIDER)
    if len(parts) != 2:
        raise ValueError("a prompt needs exactly one line '---' between the fixed instructions and the user's part")
    if not all(Template(part).is_valid() for part in parts):
        raise ValueError("a '$' that starts no slot is written '$$'")
    fixed, own = (set(Template(part).get_identifiers()) for part in parts)
    unknown = (fixed | own) - SLOTS[name]
    if unknown:
        raise ValueError(f"unknown slot ${min(unknown)}; this prompt knows {', '.join(sorted(SLOTS[name]))}")
    for users in _USERS_SLOTS[name]:
        if users not in own or users in fixed:
            raise ValueError(f"${users} belongs into the part below the line '---', and only there")
    return text


def slots_below(text: str) -> set[str]:
    """Return the slots of the user's part of a prompt."""
    return set(Template(text.split(DIVIDER)[1]).get_identifiers())


def render(
    text: str, slots: Mapping[str, Any], is_retry: bool = False, examples: str = "", retry: str = "retry"
) -> tuple[Message, ...]:
    """Return the chat of a prompt; `is_retry` adds the text `retry`, to answer shorter, that a failed reply earns.

    `examples` are the same for many users, so they come before the user's own part; what they show is not trusted, so
    they do not stand among the instructions.
    """
    fixed, own = (Template(part).substitute(slots).strip() for part in text.split(DIVIDER))
    if examples:
        own = examples + "\n\n" + own
    if is_retry:
        own += "\n\n" + load_prompt(retry).strip()
    return ({"role": "system", "content": fixed}, {"role": "user", "content": own})


def render_example(text: str, slots: Mapping[str, str]) -> str:
    """Return one example of a prompt, without a line for a part of its own."""
    return Template(text).substitute(slots).strip()


def quoted(text: str, characters: int) -> str:
    """Return untrusted text as one line of JSON, cut to `characters`, with the marks of chat templates escaped."""
    line = " ".join(text.split())
    if len(line) > characters:
        line = line[: characters - 1].rstrip() + "…"
    safe = json.dumps(line, ensure_ascii=False)
    return _CONTROL.sub(lambda mark: f"\\u{ord(mark.group()):04x}", safe)


def named(domain: str, about: Mapping[str, Any]) -> str:
    """Return how a prompt speaks of a domain: its name, with the settings' description where `about` has one.

    A name comes from the data: one that is not a single short word is quoted as titles are.
    """
    name = domain if _WORD.fullmatch(domain) else quoted(domain, NAME_CHARACTERS)
    describe = about[domain].describe if domain in about else ""
    return f"{name} ({describe})" if describe else name


def titles_of(items: pa.Table, item_ids: pa.Array) -> dict[str, str]:
    """Return what prompts call these items: the title, or the text where there is none; neither: left out."""
    chosen = items.filter(pc.is_in(items["item_id"], value_set=item_ids))
    columns = (chosen[name].to_pylist() for name in ("item_id", "title", "text"))
    return {item: title or text for item, title, text in zip(*columns, strict=True) if title or text}


def items_schema(answers: int, characters: int = ANSWER_CHARACTERS) -> dict[str, Any]:
    """Return the JSON schema of a reply to `generate_items`: {"items": [...]}."""
    return _object(items=_texts(answers, characters))


def numbers_schema(answers: int, candidates: int) -> dict[str, Any]:
    """Return the JSON schema of a reply to `choose_items`: {"numbers": [...]}, of candidates counted from 1."""
    number = {"type": "integer", "minimum": 1, "maximum": candidates}
    return _object(numbers={"type": "array", "items": number, "minItems": 1, "maxItems": min(answers, candidates)})


def scores_schema(candidates: int) -> dict[str, Any]:
    """Return the JSON schema of a reply to `score_items`: {"scores": [...]}, one per candidate."""
    size = {"minItems": candidates, "maxItems": candidates}
    return _object(scores={"type": "array", "items": {"type": "number"}, **size})


def profile_schema(words: int) -> dict[str, Any]:
    """Return the JSON schema of a profile of about `words` words: {"profile": "..."}."""
    return _object(profile={"type": "string", "minLength": 1, "maxLength": 12 * words})


def description_schema(sizes: Mapping[str, int], characters: int = PHRASE_CHARACTERS) -> dict[str, Any]:
    """Return the JSON schema of a reply to `describe_item`: {"attributes": [...], "goes_with": [...]}.

    `sizes` says how many phrases each field may have.
    """
    return _object(**{name: _texts(sizes[name], characters) for name in DESCRIPTION})


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _texts(most: int, characters: int) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1, "maxLength": characters}
    return {"type": "array", "items": text, "minItems": 1, "maxItems": most}
