"""Hold answers against what users really chose: how often, beside chance and what costs no language model.

Truth are training actions that no prompt showed: the later part of a user's training prefix, and the hidden domain of
probes. A share is that of answers whose item the user chose; its interval resamples users.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.schemas import ANSWER_LIFT
from pipeline.config import EnrichConfig
from pipeline.frames import frame_of, to_arrow
from pipeline.histories import prompt_visible, training_prefix
from pipeline.llm.cooccurrence import Neighbours
from pipeline.llm.generator import ItemsQuestion

RESAMPLES = 1000
BANDS = (0, 2, 5)
"""Ranks at which the bands of a generator's answers begin."""
KEPT = "kept"
"""The answers that are inserted; all other sources are there to compare with."""

KEYS = ["truth", "from_domain", "to_domain"]


def measure_answers(
    sequences: pa.Table, probes: pa.Table, grounded: pa.Table, items: pa.Table, cfg: EnrichConfig
) -> pa.Table:
    """Return ANSWER_LIFT: a row per kind of truth, pair of domains, source of items and band of ranks.

    Sources: `answers`, all that were grounded; `kept`, those that the noise filter left; `another user`, the kept ones
    given to another user of the pair; `cooccurrence` and `popular`, as many items for the same users. `chance` is what
    a random item of the domain would reach. A band is the rank at which it begins; null: all ranks.
    """
    truth = _truth(sequences, probes, cfg)
    judged = truth.select("truth", "user_id", to_domain="domain").unique()
    asked = frame_of(grounded).filter(pl.col("item_id").is_not_null()).join(judged, on=["user_id", "to_domain"])
    answers = asked.select(*KEYS, "user_id", "item_id", "kept", rank="answer_index")
    kept = answers.filter("kept")
    baseline = Neighbours(sequences, probes, cfg.prompt_share, _titled(items))
    sources = {
        "answers": answers,
        KEPT: kept,
        "another user": _of_another_user(kept),
        "cooccurrence": _instead(kept, baseline, by_neighbours=True),
        "popular": _instead(kept, baseline, by_neighbours=False),
    }
    chance = _chance(truth, items)
    rows = [
        row
        for source, table in sources.items()
        for band in ((None, *BANDS) if source == KEPT else (None,))
        for row in _rows(_in_band(table, band), truth, chance, source, band)
    ]
    return to_arrow(pl.DataFrame(rows, schema=SCHEMA, orient="row"), ANSWER_LIFT)


SCHEMA = {
    "truth": pl.String, "from_domain": pl.String, "to_domain": pl.String, "source": pl.String, "band": pl.Int32,
    "users": pl.Int64, "answers": pl.Int64, "share": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "chance": pl.Float64,
}  # fmt: skip


def _truth(sequences: pa.Table, probes: pa.Table, cfg: EnrichConfig) -> pl.DataFrame:
    """Return (truth, user_id, domain, item_id): the training actions that no prompt of the user showed."""
    shown = prompt_visible(sequences, cfg.prompt_share)
    later = training_prefix(sequences).join(shown, on=["row", "position"], how="anti")
    unshown = later.select("user_id", "domain", "item_id").join(shown, on=["user_id", "item_id"], how="anti").unique()
    parts = [unshown.with_columns(truth=pl.lit("unshown")), _hidden_truth(probes).with_columns(truth=pl.lit("hidden"))]
    return pl.concat(parts, how="diagonal").select("truth", "user_id", "domain", "item_id")


def _hidden_truth(probes: pa.Table) -> pl.DataFrame:
    """Return (user_id, domain, item_id): what each probe really chose in its hidden domain."""
    rows = frame_of(probes).select("user_id", domain="hidden_domain", item_id="hidden_items")
    return rows.explode("item_id")


def _chance(truth: pl.DataFrame, items: pa.Table) -> pl.DataFrame:
    """Return (truth, user_id, to_domain, chance): how often a random item of the domain is one that the user chose."""
    sizes = frame_of(items).group_by("domain").agg(size=pl.len())
    chosen = truth.group_by("truth", "user_id", "domain").agg(chosen=pl.col("item_id").n_unique())
    chances = chosen.join(sizes, on="domain").with_columns(chance=pl.col("chosen") / pl.col("size"))
    return chances.select("truth", "user_id", "chance", to_domain="domain")


def _titled(items: pa.Table) -> set[str]:
    return set(frame_of(items).filter(pl.col("text").is_not_null())["item_id"])


def _of_another_user(kept: pl.DataFrame) -> pl.DataFrame:
    """Return the answers, each user's given to the next user of the same kind of truth and pair of domains."""
    users = kept.select(*KEYS, "user_id").unique().sort(*KEYS, "user_id")
    following = users.with_columns(
        other=pl.col("user_id").shift(-1).over(KEYS).fill_null(pl.col("user_id").first().over(KEYS))
    )
    given = kept.join(following, on=[*KEYS, "user_id"]).filter(pl.col("other") != pl.col("user_id"))
    return given.with_columns(user_id="other").drop("other")


def _instead(kept: pl.DataFrame, baseline: Neighbours, by_neighbours: bool) -> pl.DataFrame:
    """Return, for each user and pair, as many items of the baseline as answers were kept."""
    counts = kept.group_by(*KEYS, "user_id", maintain_order=True).agg(answers=pl.len())
    questions = [
        ItemsQuestion(row["user_id"], row["from_domain"], row["to_domain"], (), (), row["answers"])
        for row in counts.to_dicts()
    ]
    items = baseline.items(questions, by_neighbours) if questions else {}
    found = [items[question.user_id, question.to_domain][: question.answers] for question in questions]
    given = counts.with_columns(item_id=pl.Series("item_id", found, pl.List(pl.String)))
    ranked = given.with_columns(rank=pl.int_ranges(pl.col("item_id").list.len()))
    return ranked.filter(pl.col("item_id").list.len() > 0).explode("item_id", "rank")


def _in_band(table: pl.DataFrame, band: int | None) -> pl.DataFrame:
    if band is None:
        return table
    end = next((start for start in BANDS if start > band), None)
    return table.filter((pl.col("rank") >= band) & (pl.lit(True) if end is None else pl.col("rank") < end))


def _rows(
    table: pl.DataFrame, truth: pl.DataFrame, chance: pl.DataFrame, source: str, band: int | None
) -> Sequence[tuple[object, ...]]:
    right = truth.rename({"domain": "to_domain"}).unique().with_columns(chosen=pl.lit(1))
    judged = table.join(right, on=["truth", "user_id", "to_domain", "item_id"], how="left").join(
        chance, on=["truth", "user_id", "to_domain"]
    )
    users = judged.group_by(*KEYS, "user_id").agg(
        pl.col("chosen").fill_null(0).sum(), answers=pl.len(), chance=pl.col("chance").sum()
    )
    rows = []
    for key, theirs in users.sort(*KEYS, "user_id").group_by(KEYS, maintain_order=True):
        chosen, answers = theirs["chosen"].to_numpy(), theirs["answers"].to_numpy()
        low, high = _interval(chosen, answers)
        share, by_chance = chosen.sum() / answers.sum(), theirs["chance"].sum() / answers.sum()
        rows.append((*key, source, band, len(theirs), int(answers.sum()), share, low, high, by_chance))
    return rows


def _interval(chosen: np.ndarray, answers: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of sum(chosen) / sum(answers) over resampled users (Efron 1981)."""
    drawn = np.random.default_rng(0).poisson(1.0, (RESAMPLES, len(chosen)))
    shares = (drawn @ chosen) / np.maximum(drawn @ answers, 1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(low), float(high)
