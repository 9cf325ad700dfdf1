"""Read histories that are given to a trained model: the rows of interactions files, of any users."""

from pathlib import Path

import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from pipeline.config import DataConfig
from pipeline.ingest import readers
from pipeline.ingest.inputs import names
from pipeline.ingest.times import read_times

OURS = ("user_id", "item_id", "timestamp", "position", "rating")


def read_histories(path: Path, cfg: DataConfig) -> tuple[pa.Table, dict[str, int]]:
    """Return user_id, item_id and, where the file has times, time (int64, milliseconds), and rows left out by reason.

    The file's columns are called as in the interactions files, or as we call them; all but user_id and item_id may be
    missing. Rows stand as in the file, by position where there is one. Ratings below [data] min_rating are left out, as
    in the interactions. Raises UserError for a missing file or column, and where no row is left.
    """
    there = readers.columns_of(path)
    theirs = {ours: getattr(names(cfg)[0], ours) for ours in OURS}
    found = {ours: name for ours in OURS if (name := theirs[ours]) in there or (name := ours) in there}
    for ours in OURS[:2]:
        if ours not in found:
            raise UserError(f"{path}: no column '{theirs[ours]}' for {ours}. It has {', '.join(there)}. Rename one.")
    if cfg.times != "real":
        found.pop("timestamp", None)
    rows = readers.read(path, list(dict.fromkeys(found.values())))
    raw = rows.good.select(pl.col(name).alias(ours) for ours, name in found.items())
    frame = raw.select(pl.col("user_id", "item_id").cast(pl.String).str.strip_chars().replace("", None))
    reasons = [(pl.col("user_id").is_null(), "no_user"), (pl.col("item_id").is_null(), "no_item")]
    if "timestamp" in found:
        frame = frame.with_columns(time=read_times(raw["timestamp"], names(cfg)[2]).dt.epoch("ms"))
        reasons.append((pl.col("time").is_null(), "bad_time"))
    if "rating" in found and cfg.min_rating is not None:
        stars = raw["rating"].cast(pl.Float64, strict=False)
        reasons.append((pl.lit(stars.is_null() | (stars < cfg.min_rating)), "rating_below_minimum"))
    why = pl.coalesce(pl.when(holds).then(pl.lit(reason)) for holds, reason in reasons)
    frame = frame.with_columns(reason=why)
    if "position" in found:
        frame = frame.with_columns(position=raw["position"].cast(pl.Float64, strict=False))
        frame = frame.sort("position", nulls_last=True, maintain_order=True)
    left_out = dict(pl.concat([rows.bad["reason"], frame["reason"].drop_nulls()]).value_counts(sort=True).iter_rows())
    good = frame.filter(pl.col("reason").is_null())
    if good.is_empty():
        counts = ", ".join(f"{reason} {count:,}" for reason, count in left_out.items()) or "it has none"
        raise UserError(f"{path}: no action can be read ({counts}). Each row needs a user_id and an item_id.")
    return good.select(
        column for column in ("user_id", "item_id", "time") if column in good.columns
    ).to_arrow(), left_out
