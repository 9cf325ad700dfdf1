"""Merge a user's domain summaries into one overall profile."""

import polars as pl
import pyarrow as pa

from data_lake.schemas import USER_PROFILES
from data_lake.tables import check
from pipeline.answers import ask, reply_columns
from pipeline.config import ProfileConfig
from pipeline.histories import frame_of
from pipeline.llm.generate import Generate, Request
from pipeline.prompts import profile_schema, quoted, render


def users_to_profile(domain_profiles: pa.Table) -> pa.Table:
    """Return one row per user, in order: user_id and the lists domains, texts, evidences of what is merged.

    An inferred profile weighs nothing and is left out, as is one that failed.
    """
    counts = pl.col("text").is_not_null() & ~pl.col("inferred")
    users = (
        frame_of(domain_profiles)
        .group_by("user_id", maintain_order=True)
        .agg(
            domains=pl.col("domain").filter(counts),
            texts=pl.col("text").filter(counts),
            evidences=pl.col("evidence").filter(counts),
        )
    )
    return users.to_arrow(compat_level=pl.CompatLevel.oldest())


def profile_users(rows: pa.Table, generate: Generate, cfg: ProfileConfig) -> pa.Table:
    """Return USER_PROFILES, one row per row of `rows` (see `users_to_profile`), in the same order.

    `evidence` is the number of real items that the merged summaries rest on. Where there is nothing to merge, nothing
    is asked and the reason is `no_profiles`.
    """
    users = rows.to_pylist()

    def request(place: int, tighter: bool = False) -> Request:
        row = users[place]
        words = max(1, cfg.user_words // 2) if tighter else cfg.user_words
        parts = list(zip(row["domains"], row["texts"], row["evidences"], strict=True))
        longest = 12 * cfg.words
        profiles = "\n".join(
            f'{{"part": {quoted(domain, longest)}, "evidence": {count}, "description": {quoted(text, longest)}}}'
            for domain, text, count in parts
        )
        return Request(
            task="profile_user",
            messages=render(cfg.user_prompt, {"words": words, "profiles": profiles}, tighter),
            schema=profile_schema(words),
            max_tokens=2 * cfg.max_tokens,
            facts={"domains": [{"domain": domain, "text": text, "evidence": count} for domain, text, count in parts]},
        )

    requests = [request(place) if row["domains"] else None for place, row in enumerate(users)]
    answers = ask(generate, requests, lambda place: request(place, tighter=True), reason="no_profiles")
    columns = {
        "user_id": rows["user_id"],
        "text": pa.array([answer.value[0] if answer.value else None for answer in answers], pa.string()),
        "evidence": pa.array([sum(row["evidences"]) for row in users], pa.int32()),
    }
    return check(pa.table({**columns, **reply_columns(answers, generate.identity)}), USER_PROFILES)
