"""What a language model is asked about one user, and what becomes of its replies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from flows.dry_run import KeptReplies, Recorder, asking_about_users, dry_run
from flows.run import Run
from flows.show import plain
from flows.stages import ASKING, SPECS
from flows.text import table
from pipeline.llm.generator import Generator, Message

GROUNDED = (
    "answer", "title", "faithfulness", "faithfulness_threshold", "relevance", "band", "weight", "kept", "reason",
)  # fmt: skip
ABOUT = ("from_domain", "to_domain", "domain")


@dataclass(frozen=True)
class Question:
    """A prompt as it is sent, its tokens, the reply, and what was made of each answer in it.

    `reason` is why there is no reply that counts: "not_asked" where nothing was asked and none is kept.
    """

    stage: str
    about: str
    messages: tuple[Message, ...]
    tokens: int
    reply: str | None
    reason: str | None
    grounded: list[dict[str, Any]]


def ask(run: Run, user: str, is_dry: bool) -> list[Question]:
    """Return the questions about a user, in the order of the stages, from the lake's current artifacts.

    The model is asked what no kept reply answers, unless `is_dry`; its replies are kept for the next run. Raises
    UserError where the settings ask no language model, or where nothing is asked about the user.
    """
    generator = run.models.generator
    if not (run.settings.enrich.is_on and generator.asks_model):
        raise UserError(
            f'[enrich] generator = "{run.settings.enrich.generator}" asks no language model. What it gave a user is '
            f"shown by `edt show grounded_items --user {user}{run.request.options}`."
        )
    cache = run.lake.keyed_cache("replies")
    answers = KeptReplies(generator, cache) if is_dry else run.models.generator_with_cache(generator, cache)
    found: list[Question] = []
    with run.lake.lock():
        for spec in asking_about_users(run):
            asking = Recorder(answers)
            made = dry_run(run, spec, asking, [user]).get(ASKING[spec.name])
            if made is None:
                continue
            grounded = _grounded(run, asking, user, made) if spec.name == "generate_items" else []
            found += _questions(spec.name, asking, made, grounded)
    if not found:
        raise UserError(
            f"Nothing is asked about user {user!r}: the lake does not know the user, or the stages before the first "
            f"question are still to run. `edt show sequences --user {user}{run.request.options}` tells which."
        )
    return found


def told(questions: Sequence[Question]) -> str:
    """Return the questions as text for a person."""
    parts = []
    for each in questions:
        parts.append(f"{each.stage}, {each.about}: {each.tokens:,} tokens")
        parts += [f"[{message['role']}]\n{message['content']}" for message in each.messages]
        parts.append(f"[reply]\n{each.reply}" if each.reply is not None else f"[no reply: {each.reason}]")
        parts.append(table([{name: row[name] for name in GROUNDED} for row in each.grounded]))
    return "\n\n".join(filter(None, parts))


def _grounded(run: Run, asking: Generator, user: str, made: pa.Table) -> list[dict[str, Any]]:
    """Return what `ground` makes of new replies, with the noise filter that was learnt from all users."""
    spec = next(each for each in SPECS if each.name == "ground")
    if not run.lake.manifest("generated_items") or not (made["status"].to_pylist().count("ok")):
        return []
    others = pl.DataFrame(run.lake.read("generated_items")).filter(pl.col("user_id") != user)
    generated = pa.concat_tables([others.to_arrow().cast(made.schema), made])
    grounded = dry_run(run, spec, asking, [user], generated_items=generated).get("grounded_items")
    return [] if grounded is None else [plain(row) for row in grounded.to_pylist()]


def _questions(stage: str, asking: Recorder, made: pa.Table, grounded: Sequence[dict[str, Any]]) -> list[Question]:
    found = []
    for row in made.to_pylist():
        request = asking.requests.get(row["prompt_hash"])
        if request is None:  # nothing to ask, as for a user without items of the domain
            continue
        about = " to ".join(row[name] for name in ABOUT if row.get(name)) or "all domains"
        of_row = [each for each in grounded if all(each[name] == row[name] for name in ABOUT if name in each)]
        [tokens] = asking.tokens.count([request])
        found.append(Question(stage, about, request.messages, tokens, row["reply"], row["reason"], of_row))
    return found
