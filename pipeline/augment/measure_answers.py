"""Hold answers against what users really chose: how often, beside chance and what costs no language model.

Truth are training actions that no prompt showed: the later part of a user's training prefix, and the hidden domain of
probes. A share is that of answers whose item the user chose; its interval resamples users.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from data_lake.schemas import ANSWER_LIFT
from pipeline.augment.truth import same_item, shares
from pipeline.frames import frame_of, to_arrow
from pipeline.llm.generator import ItemSource, ItemsQuestion

BANDS = (0, 2, 5)
"""Ranks at which the bands of a generator's answers begin."""
ANSWERS, KEPT = "answers", "kept"
"""Sources of the generator; all others are there to compare with."""
RANKED = (ANSWERS, KEPT)

KEYS = ["truth", "from_domain", "to_domain"]


def measure_answers(
    truth: pl.DataFrame, representatives: pa.Table, grounded: pa.Table, items: pa.Table, clusters: pa.Table,
    baselines: Mapping[str, ItemSource],
) -> pa.Table:  # fmt: skip
    """Return ANSWER_LIFT: a row per kind of truth (see `truth.all_truth`), pair of domains, source of items and ranks.

    Sources: `answers`, all that were grounded; `kept`, those that are inserted; `another user`, the answers given to
    another user of the pair; and by each of the `baselines` as many items for the same users. `chance` is what a random
    item of the domain would reach. An item is `in_cluster` where the user chose one of its cluster; `clusters` has
    (item_id, cluster). A band is the rank at which it begins; null: all ranks.
    """
    judged = truth.select("truth", "user_id", to_domain="domain").unique()
    asked = frame_of(grounded).filter(pl.col("item_id").is_not_null()).join(judged, on=["user_id", "to_domain"])
    answers = asked.select(*KEYS, "user_id", "item_id", "kept", rank="answer_index")
    sources = {ANSWERS: answers, KEPT: answers.filter("kept"), "another user": _of_another_user(answers)}
    known = frame_of(representatives).select("user_id", "domain", "item_ids")
    shown = {(user, domain): item_ids for user, domain, item_ids in known.iter_rows()}
    sources |= {name: _instead(answers, baseline, shown) for name, baseline in baselines.items()}
    alone = same_item(items)
    unit = frame_of(clusters).select("item_id", unit=pl.col("cluster").cast(pl.String))
    alike = alone.drop("unit").join(unit, on="item_id", how="left")
    rows = [
        row | {"source": source, "band": band, "in_cluster": near["share"], "in_cluster_by_chance": near["chance"]}
        for source, table in sources.items()
        for band in ((None, *BANDS) if source in RANKED else (None,))
        for row, near in zip(
            *(shares(_in_band(table, band), truth, units, KEYS) for units in (alone, alike)), strict=True
        )
    ]
    return to_arrow(pl.DataFrame(rows, schema=SCHEMA), ANSWER_LIFT)


def summary(answer_lift: pa.Table) -> dict[str, Any]:
    """Return a manifest's figures of ANSWER_LIFT: by truth and pair of domains, what is kept beside chance."""
    pairs: dict[str, dict[str, dict[str, float]]] = {}
    for row in answer_lift.to_pylist():
        if row["source"] == KEPT and row["band"] is None:
            pair = f"{row['from_domain']} to {row['to_domain']}"
            pairs.setdefault(row["truth"], {})[pair] = {name: row[name] for name in FIGURES}
    return {"lift": pairs}


FIGURES = ("users", "answers", "share", "low", "high", "chance", "in_cluster", "in_cluster_by_chance")

SCHEMA = {
    "truth": pl.String, "from_domain": pl.String, "to_domain": pl.String, "source": pl.String, "band": pl.Int32,
    "users": pl.Int64, "answers": pl.Int64, "share": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "chance": pl.Float64, "in_cluster": pl.Float64, "in_cluster_by_chance": pl.Float64,
}  # fmt: skip


def _of_another_user(kept: pl.DataFrame) -> pl.DataFrame:
    """Return the answers, each user's given to the next user of the same kind of truth and pair of domains."""
    users = kept.select(*KEYS, "user_id").unique().sort(*KEYS, "user_id")
    following = users.with_columns(
        other=pl.col("user_id").shift(-1).over(KEYS).fill_null(pl.col("user_id").first().over(KEYS))
    )
    given = kept.join(following, on=[*KEYS, "user_id"]).filter(pl.col("other") != pl.col("user_id"))
    return given.with_columns(user_id="other").drop("other")


def _instead(
    answers: pl.DataFrame, baseline: ItemSource, shown: Mapping[tuple[str, str], Sequence[str]]
) -> pl.DataFrame:
    """Return, for each user and pair, as many items of the baseline as answers."""
    counts = answers.group_by(*KEYS, "user_id", maintain_order=True).agg(answers=pl.len())
    questions = [
        ItemsQuestion(user, source, target, tuple(shown.get((user, source), ())), (), count)
        for user, source, target, count in counts.select("user_id", "from_domain", "to_domain", "answers").iter_rows()
    ]
    asked = baseline(questions) if questions else []
    found = [item_ids[: question.answers] for item_ids, question in zip(asked, questions, strict=True)]
    given = counts.with_columns(item_id=pl.Series("item_id", found, pl.List(pl.String)))
    ranked = given.with_columns(rank=pl.int_ranges(pl.col("item_id").list.len()))
    return ranked.filter(pl.col("item_id").list.len() > 0).explode("item_id", "rank")


def _in_band(table: pl.DataFrame, band: int | None) -> pl.DataFrame:
    if band is None:
        return table
    end = next((start for start in BANDS if start > band), None)
    return table.filter((pl.col("rank") >= band) & (pl.lit(True) if end is None else pl.col("rank") < end))
