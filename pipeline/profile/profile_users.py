"""Merge a user's domain summaries into one overall profile."""

import polars as pl
import pyarrow as pa

from pipeline.config import ProfileConfig
from pipeline.frames import frame_of
from pipeline.llm.answers import ask, reply_columns
from pipeline.llm.generator import DomainSummary, Generator, Request, UserProfileQuestion
from pipeline.llm.prompts import PROFILE_REPLY, PROFILE_RETRY, profile_schema, render

TOKENS_PER_WORD = 3


def users_to_profile(domain_profiles: pa.Table) -> pa.Table:
    """Return one row per user, in order: user_id and the lists domains, texts, evidences of what is merged.

    An inferred profile weighs nothing and is left out, as is one that failed. `seen` is the last position that what is
    merged rests on, `forbidden` the first that it must not.
    """
    counts = pl.col("text").is_not_null() & ~pl.col("inferred")
    users = (
        frame_of(domain_profiles)
        .group_by("user_id", maintain_order=True)
        .agg(
            domains=pl.col("domain").filter(counts),
            texts=pl.col("text").filter(counts),
            evidences=pl.col("evidence").filter(counts),
            seen=pl.col("seen").filter(counts).max(),
            forbidden=pl.col("forbidden").min(),
        )
    )
    return users.to_arrow(compat_level=pl.CompatLevel.oldest())


def profile_users(rows: pa.Table, generator: Generator, cfg: ProfileConfig) -> pa.Table:
    """Return USER_PROFILES, one row per row of `rows` (see `users_to_profile`), in the same order.

    All columns of `rows` but the lists are handed on. `evidence` is the number of real items that the merged summaries
    rest on. Where there is nothing to merge, nothing is asked and the reason is `no_profiles`. Where a prompt is too
    long for the model, the summaries that rest on the fewest items are dropped.
    """
    users = rows.to_pylist()
    texts = [text for row in users for text in (*row["domains"], *row["texts"])]
    lines = generator.tokens.quoted(texts, TOKENS_PER_WORD * cfg.words)

    def request(index: int, is_retry: bool, dropped: int) -> Request | None:
        row = users[index]
        if not row["domains"]:
            return None
        words = max(1, cfg.user_words // 2) if is_retry else cfg.user_words
        parts = list(zip(row["domains"], row["texts"], row["evidences"], strict=True))
        for _ in range(min(dropped, len(parts) - 1)):
            parts.remove(min(parts, key=lambda part: part[2]))
        profiles = "\n".join(
            f'{{"part": {lines[domain]}, "evidence": {count}, "description": {lines[text]}}}'
            for domain, text, count in parts
        )
        slots = {"words": words, "profiles": profiles, "reply": PROFILE_REPLY[cfg.reply]}
        return Request(
            question=UserProfileQuestion(tuple(DomainSummary(*part) for part in parts)),
            messages=render(cfg.user_prompt, slots, is_retry, retry=PROFILE_RETRY[cfg.reply]),
            schema=profile_schema(words),
            max_tokens=2 * cfg.max_tokens,
            is_text=cfg.reply == "text",
        )

    answers = ask(generator, len(users), request, reason="no_profiles")
    columns = {
        **reply_columns(answers, generator.identity),
        "text": pa.array([answer.value[0] if answer.value else None for answer in answers], pa.string()),
        "evidence": pa.array([sum(row["evidences"]) for row in users], pa.int32()),
    }
    table = rows.drop_columns(["domains", "texts", "evidences"])
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table
