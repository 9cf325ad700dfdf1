"""What users really chose where no prompt showed it, and how often answers were among it. Training actions only."""

import hashlib
from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from pipeline.config import EnrichConfig
from pipeline.frames import frame_of
from pipeline.histories import prompt_visible, training_prefix
from pipeline.intervals import share_interval

PARTS = 3
"""Parts of the users: of what judges one, a second part is fitted to and a third is counted."""


def all_truth(sequences: pa.Table, probes: pa.Table, cfg: EnrichConfig) -> pl.DataFrame:
    """Return (truth, user_id, domain, item_id): "unshown", the later part of a training prefix, and "hidden"."""
    shown = prompt_visible(sequences, cfg.prompt_share)
    later = training_prefix(sequences).join(shown, on=["row", "position"], how="anti")
    unshown = later.select("user_id", "domain", "item_id").join(shown, on=["user_id", "item_id"], how="anti").unique()
    parts = [unshown.with_columns(truth=pl.lit("unshown")), hidden_truth(probes)]
    return pl.concat(parts, how="diagonal").select("truth", "user_id", "domain", "item_id")


def hidden_truth(probes: pa.Table) -> pl.DataFrame:
    """Return (truth, user_id, domain, item_id): what each probe really chose in its hidden domain."""
    rows = frame_of(probes).select("user_id", domain="hidden_domain", item_id="hidden_items").explode("item_id")
    return rows.with_columns(truth=pl.lit("hidden"))


def parts_of(users: Sequence[str], seed: int) -> list[int]:
    """Return the part of each user, 0 to PARTS - 1, by the hash of seed and id."""
    return [hashlib.sha256(f"{seed}\0part\0{user}".encode()).digest()[0] % PARTS for user in users]


def shares(
    answers: pl.DataFrame, truth: pl.DataFrame, units: pl.DataFrame, keys: Sequence[str]
) -> list[dict[str, Any]]:
    """Return, per group of `keys`, users, answers, the share that the user chose, `low`, `high` and `chance`.

    `answers` has the columns `keys`, `truth`, `user_id`, `to_domain` and `item_id`. An answer is chosen if its unit is
    that of a true item of the user; `units` has (item_id, domain, unit), and an item without one is never chosen. `low`
    and `high` are the 95 % interval over users; `chance` is the share that random items of the domain would reach.
    """
    chosen = truth.join(units, on=["item_id", "domain"]).select("truth", "user_id", "unit", to_domain="domain").unique()
    of_items = units.select("item_id", "unit", to_domain="domain")
    right = chosen.with_columns(chosen=pl.lit(1))
    judged = (
        answers.join(of_items, on=["item_id", "to_domain"], how="left")
        .join(right, on=["truth", "user_id", "to_domain", "unit"], how="left")
        .join(_chance(truth, chosen, of_items), on=["truth", "user_id", "to_domain"])
    )
    users = judged.group_by(*keys, "user_id").agg(
        pl.col("chosen").fill_null(0).sum(), answers=pl.len(), chance=pl.col("chance").sum()
    )
    rows = []
    for key, theirs in users.sort(*keys, "user_id").group_by(keys, maintain_order=True):
        hits, count = theirs["chosen"].to_numpy(), theirs["answers"].to_numpy()
        low, high = share_interval(hits, count)
        figures = {"share": hits.sum() / count.sum(), "low": low, "high": high}
        chance = theirs["chance"].sum() / count.sum()
        group = dict(zip(keys, key, strict=True))
        rows.append({**group, "users": len(theirs), "answers": int(count.sum()), **figures, "chance": chance})
    return rows


def same_item(items: pa.Table) -> pl.DataFrame:
    """Return (item_id, domain, unit): every item is a unit of its own."""
    return frame_of(items).select("item_id", "domain", unit="item_id")


def _chance(truth: pl.DataFrame, chosen: pl.DataFrame, of_items: pl.DataFrame) -> pl.DataFrame:
    """Return (truth, user_id, to_domain, chance): the share of the domain's items whose unit was chosen."""
    size = of_items.group_by("to_domain").agg(size=pl.len())
    within = of_items.group_by("to_domain", "unit").agg(within=pl.len())
    hit = chosen.join(within, on=["to_domain", "unit"]).group_by("truth", "user_id", "to_domain").agg(pl.sum("within"))
    asked = truth.select("truth", "user_id", to_domain="domain").unique().join(size, on="to_domain")
    chances = asked.join(hit, on=["truth", "user_id", "to_domain"], how="left")
    return chances.select("truth", "user_id", "to_domain", chance=pl.col("within").fill_null(0) / pl.col("size"))
