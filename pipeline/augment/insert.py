"""Put the kept items into the users' sequences, marked as synthetic, each with its weight as a training target."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.schemas import AUGMENTED_SEQUENCES, TRAIN
from pipeline.config import EnrichConfig
from pipeline.frames import frame_of, to_arrow
from pipeline.histories import actions, of_users, prompt_visible
from pipeline.vectors.catalogue import Catalogue


def insert(
    sequences: pa.Table, grounded: pa.Table, catalogue: Catalogue, cfg: EnrichConfig, domains: Sequence[str]
) -> pa.Table:
    """Return AUGMENTED_SEQUENCES, users as in `sequences`; `grounded` may hold further users.

    The kept items stand before the last real item that prompts show, so that the state after it, where the language
    model was asked, and all later ones read them. With `place = "similar"` each stands after the most similar of the
    shown items. Where several stand together, the domains take turns, the more relevant item of a domain first.
    A synthetic position has the time of the real one that it stands by, and the role "train".
    """
    before = cfg.place == "before_last"
    shown = prompt_visible(sequences, cfg.prompt_share)
    turn = {domain: index for index, domain in enumerate(domains)}
    ranked = (
        of_users(grounded, sequences["user_id"])
        .filter("kept")
        .sort("row", "relevance", "item_id", descending=[False, True, False])
        .with_columns(
            rank=pl.int_range(pl.len()).over("row", "to_domain"),
            turn=pl.col("to_domain").replace_strict(turn, return_dtype=pl.Int64),
        )
        .sort("row", "rank", "turn")
        .with_columns(order=(pl.int_range(pl.len()) + (-pl.len().cast(pl.Int64) if before else 1)).over("row"))
    )
    beside = (
        shown.group_by("row").agg(pl.col("position").last(), pl.col("timestamp").last())
        if before
        else _most_similar(ranked, shown, catalogue)
    )
    keys = ["row"] if before else ["row", "item_id"]
    synthetic = ranked.join(beside, on=keys, maintain_order="left").select(
        "row",
        "position",
        "order",
        "item_id",
        "timestamp",
        "weight",
        domain="to_domain",
        split=pl.lit(TRAIN),
        synthetic=pl.lit(True),
    )
    real = actions(sequences).with_columns(
        order=pl.lit(0, pl.Int64), synthetic=pl.lit(False), weight=pl.lit(0, pl.Float32)
    )
    columns = ["row", "position", "order", "item_id", "domain", "timestamp", "split", "synthetic", "weight"]
    both = pl.concat([real.select(columns), synthetic.select(columns)]).sort("row", "position", "order")
    rows = both.group_by("row", maintain_order=True).agg(
        item_ids="item_id",
        domains="domain",
        timestamps="timestamp",
        splits="split",
        synthetic="synthetic",
        weights="weight",
    )
    users = frame_of(sequences).select("user_id").with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    table = users.join(rows, on="row", maintain_order="left").drop("row")
    return to_arrow(table, AUGMENTED_SEQUENCES)


def _most_similar(ranked: pl.DataFrame, shown: pl.DataFrame, catalogue: Catalogue) -> pl.DataFrame:
    """Return (row, item_id, position, timestamp): the shown action nearest each item, the latest of equals."""
    shown = shown.with_columns(real=pl.Series(catalogue.rows(shown["item_id"].to_arrow())))
    shown = shown.filter((pl.col("real") >= 0) & pl.Series(catalogue.has_text)[shown["real"].to_numpy()])
    pairs = ranked.select("row", "item_id").join(shown.select("row", "real", "position", "timestamp"), on="row")
    inserted = catalogue.rows(pairs["item_id"].to_arrow())
    real = pairs["real"].to_numpy()
    cosine = np.empty(len(pairs), dtype=np.float32)
    for first in range(0, len(pairs), 65_536):
        block = slice(first, first + 65_536)
        cosine[block] = np.einsum("nd,nd->n", catalogue.vectors[inserted[block]], catalogue.vectors[real[block]])
    near = pairs.with_columns(cosine=pl.Series(cosine).round(5)).sort("cosine", "position")
    return near.unique(["row", "item_id"], keep="last", maintain_order=True).drop("cosine", "real")
