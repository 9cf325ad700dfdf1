"""Write one preference summary per user and domain."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from pipeline.config import DomainConfig, ProfileConfig
from pipeline.frames import frame_of
from pipeline.histories import training_prefix
from pipeline.llm.answers import ask, reply_columns
from pipeline.llm.generator import Generate, Request
from pipeline.llm.prompts import named, profile_schema, render, titles_of
from pipeline.llm.tokens import BY_CHARACTERS, Tokens


def profile_domains(
    augmented: pa.Table,
    items: pa.Table,
    clusters: pa.Table,
    generate: Generate,
    cfg: ProfileConfig,
    domains: Sequence[str],
    about: Mapping[str, DomainConfig],
    tokens: Tokens = BY_CHARACTERS,
) -> pa.Table:
    """Return DOMAIN_PROFILES: a row per user and domain, users as in `augmented`, domains as in `domains`.

    A prompt shows the last different items of the domain in the augmented training prefix, cluster by cluster, real
    ones marked. Items that belong to no cluster, for want of a text, are not shown, but count as evidence. Where no
    real item can be shown the profile is `inferred`; where none at all can, nothing is asked, reason `no_items`. Where
    a prompt is too long for the model the oldest items are left out.
    """
    grid = _listed(augmented, clusters, cfg.last_items, domains)
    rows = grid.select("user_id", "domain", "evidence", "inferred", "item_ids", "clusters", "real", "age").to_dicts()
    listed = grid["item_ids"].explode().drop_nulls().unique()
    titles = titles_of(items, listed.to_arrow().cast(pa.string()))
    lines = tokens.quoted(titles.values(), cfg.title_tokens)

    def request(place: int, is_retry: bool, dropped: int) -> Request | None:
        row = rows[place]
        if not row["item_ids"]:
            return None
        settings = about.get(row["domain"], DomainConfig())
        words = max(1, cfg.words // 2) if is_retry else cfg.words
        groups: dict[int, list[tuple[str, bool]]] = {}
        youngest = max(len(row["item_ids"]) - dropped, 1)
        for item_id, cluster, real, age in zip(row["item_ids"], row["clusters"], row["real"], row["age"], strict=True):
            if age < youngest:
                groups.setdefault(cluster, []).append((titles[item_id], real))
        slots = {
            "domain": named(row["domain"], about),
            "words": words,
            "items": _text(list(groups.values()), lines),
        }
        return Request(
            task="profile_domain",
            messages=render(settings.profile_prompt or cfg.domain_prompt, slots, is_retry),
            schema=profile_schema(words),
            max_tokens=cfg.max_tokens,
            facts={
                "user_id": row["user_id"],
                "domain": row["domain"],
                "groups": [[title for title, _ in group] for group in groups.values()],
                "evidence": row["evidence"],
                "inferred": row["inferred"],
                "words": words,
            },
        )

    answers = ask(generate, len(rows), request, tokens, reason="no_items")
    columns: dict[str, Any] = {
        name: grid[name].to_arrow(compat_level=pl.CompatLevel.oldest())
        for name in ("user_id", "domain", "evidence", "inferred")
    }
    columns["text"] = pa.array([answer.value[0] if answer.value else None for answer in answers], pa.string())
    return pa.table({**columns, **reply_columns(answers, generate.identity)})


def _listed(augmented: pa.Table, clusters: pa.Table, last: int, domains: Sequence[str]) -> pl.DataFrame:
    """Return per user and domain what a prompt lists: item_ids, clusters, real, age (0: last); evidence, inferred."""
    known = training_prefix(augmented).with_columns(real=~pl.col("synthetic"))
    cell = ["row", "domain"]
    evidence = known.group_by(cell).agg(evidence=pl.col("real").sum())
    with_text = (
        known.join(frame_of(clusters), on="item_id", maintain_order="left")
        .group_by([*cell, "item_id"])
        .agg(pl.col("position").max(), pl.col("real").any(), pl.col("cluster").first())
        .sort("row", "position")
    )
    inferred = with_text.group_by(cell).agg(inferred=~pl.col("real").any())
    shown = (
        with_text.group_by(cell, maintain_order=True)
        .tail(last)
        .with_columns(age=pl.len().over(cell) - 1 - pl.int_range(pl.len()).over(cell))
        .sort("row", "domain", "cluster", "position")
        .group_by(cell, maintain_order=True)
        .agg("age", item_ids="item_id", clusters="cluster", real="real")
    )
    users = frame_of(augmented).select("user_id").with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    grid = users.join(pl.DataFrame({"domain": list(domains)}, schema={"domain": pl.String}), how="cross")
    for part in (evidence, inferred, shown):
        grid = grid.join(part, on=cell, how="left", maintain_order="left")
    return grid.with_columns(pl.col("evidence").fill_null(0).cast(pl.Int32), pl.col("inferred").fill_null(True))


def _text(groups: list[list[tuple[str, bool]]], quoted: Mapping[str, str]) -> str:
    lines = []
    for number, group in enumerate(groups, start=1):
        lines.append(f"Group {number}")
        lines += [f"{'chosen' if real else 'guessed'} {quoted[title]}" for title, real in group]
    return "\n".join(lines)
