"""Write one preference summary per user and domain."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from data_lake.schemas import TRAIN
from pipeline.config import DomainConfig, ProfileConfig
from pipeline.frames import frame_of
from pipeline.histories import actions
from pipeline.llm.answers import ask, reply_columns
from pipeline.llm.generator import DomainProfileQuestion, Generator, Request
from pipeline.llm.prompts import PROFILE_REPLY, PROFILE_RETRY, named, profile_schema, render, titles_of


def profile_rows(augmented: pa.Table, clusters: pa.Table, last_items: int, domains: Sequence[str]) -> pl.DataFrame:
    """Return a row per user and domain with what its prompt lists: user_id, domain, item_ids, clusters, real, age.

    Listed are the `last_items` last different items of the domain in the augmented training prefix, cluster by cluster;
    `age` counts from the last one, 0. Items that belong to no cluster, for want of a text, are not listed. `evidence`
    counts the real actions, listed or not; `inferred` says that no real item is listed. `seen` is the position of the
    last one counted, `forbidden` that of the user's first action that is not for training, both among the real actions.
    Users stand as in `augmented`, domains as in `domains`.
    """
    every = actions(augmented).with_columns(real=~pl.col("synthetic"))
    every = every.with_columns(real_position=pl.col("real").cast(pl.Int32).cum_sum().over("row") - 1)
    known = every.filter(pl.col("split") == TRAIN)
    forbidden = every.filter(pl.col("split") != TRAIN).group_by("row").agg(forbidden=pl.col("real_position").min())
    cell = ["row", "domain"]
    evidence = known.group_by(cell).agg(
        evidence=pl.col("real").sum(), seen=pl.col("real_position").filter(pl.col("real")).max()
    )
    with_text = (
        known.join(frame_of(clusters), on="item_id", maintain_order="left")
        .group_by([*cell, "item_id"])
        .agg(pl.col("position").max(), pl.col("real").any(), pl.col("cluster").first())
        .sort("row", "position")
    )
    inferred = with_text.group_by(cell).agg(inferred=~pl.col("real").any())
    shown = (
        with_text.group_by(cell, maintain_order=True)
        .tail(last_items)
        .with_columns(age=pl.len().over(cell) - 1 - pl.int_range(pl.len()).over(cell))
        .sort("row", "domain", "cluster", "position")
        .group_by(cell, maintain_order=True)
        .agg("age", item_ids="item_id", clusters="cluster", real="real")
    )
    users = frame_of(augmented).select("user_id").with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    grid = users.join(pl.DataFrame({"domain": list(domains)}, schema={"domain": pl.String}), how="cross")
    for part in (evidence, inferred, shown):
        grid = grid.join(part, on=cell, how="left", maintain_order="left")
    grid = grid.join(forbidden, on="row", how="left", maintain_order="left")
    return grid.with_columns(pl.col("evidence").fill_null(0).cast(pl.Int32), pl.col("inferred").fill_null(True))


def profile_domains(
    rows: pl.DataFrame, items: pa.Table, generator: Generator, cfg: ProfileConfig, about: Mapping[str, DomainConfig]
) -> pa.Table:
    """Return DOMAIN_PROFILES: a row per row of `rows` (see `profile_rows`), in the same order.

    Where no item is listed nothing is asked, reason `no_items`. Where a prompt is too long for the model the oldest
    items are dropped.
    """
    titles = titles_of(items, rows["item_ids"].explode().drop_nulls().unique().to_arrow().cast(pa.string()))
    prompts = _Prompts(titles, generator.tokens.quoted(titles.values(), cfg.title_tokens), cfg, about)
    asked = rows.to_dicts()

    def request(index: int, is_retry: bool, dropped: int) -> Request | None:
        row = asked[index]
        return prompts.request(row, is_retry, dropped) if row["item_ids"] else None

    answers = ask(generator, len(asked), request, reason="no_items")
    columns: dict[str, Any] = {
        name: rows[name].to_arrow(compat_level=pl.CompatLevel.oldest())
        for name in ("user_id", "domain", "evidence", "inferred", "seen", "forbidden")
    }
    columns["text"] = pa.array([answer.value[0] if answer.value else None for answer in answers], pa.string())
    return pa.table({**columns, **reply_columns(answers, generator.identity)})


class _Prompts:
    """Writes the requests of some users; `lines` are the titles as prompts show them."""

    def __init__(
        self,
        titles: Mapping[str, str],
        lines: Mapping[str, str],
        cfg: ProfileConfig,
        about: Mapping[str, DomainConfig],
    ) -> None:
        self._titles, self._lines, self._cfg, self._about = titles, lines, cfg, about

    def request(self, row: Mapping[str, Any], is_retry: bool, dropped: int) -> Request:
        """Return the request of a row, without its `dropped` oldest items; a retry asks for fewer words."""
        words = max(1, self._cfg.words // 2) if is_retry else self._cfg.words
        groups = self._groups(row, youngest=max(len(row["item_ids"]) - dropped, 1))
        slots = {
            "domain": named(row["domain"], self._about),
            "words": words,
            "items": _text(groups, self._lines),
            "reply": PROFILE_REPLY[self._cfg.reply],
        }
        prompt = self._about.get(row["domain"], DomainConfig()).profile_prompt or self._cfg.domain_prompt
        titles = tuple(tuple(title for title, _ in group) for group in groups)
        return Request(
            question=DomainProfileQuestion(
                row["user_id"], row["domain"], titles, row["evidence"], row["inferred"], words
            ),
            messages=render(prompt, slots, is_retry, retry=PROFILE_RETRY[self._cfg.reply]),
            schema=profile_schema(words),
            max_tokens=self._cfg.max_tokens,
            is_text=self._cfg.reply == "text",
        )

    def _groups(self, row: Mapping[str, Any], youngest: int) -> list[list[tuple[str, bool]]]:
        """Return title and whether it is real of the `youngest` items, cluster by cluster."""
        groups: dict[int, list[tuple[str, bool]]] = {}
        for item_id, cluster, real, age in zip(row["item_ids"], row["clusters"], row["real"], row["age"], strict=True):
            if age < youngest:
                groups.setdefault(cluster, []).append((self._titles[item_id], real))
        return list(groups.values())


def _text(groups: Sequence[Sequence[tuple[str, bool]]], quoted: Mapping[str, str]) -> str:
    lines = []
    for number, group in enumerate(groups, start=1):
        lines.append(f"Group {number}")
        lines += [f"{'chosen' if real else 'guessed'} {quoted[title]}" for title, real in group]
    return "\n".join(lines)
