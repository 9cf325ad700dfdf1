"""The stored sequences as one row per action, and the part of them that prompts may show."""

import hashlib

import polars as pl
import pyarrow as pa

from data_lake.schemas import TRAIN
from pipeline.frames import frame_of


def actions(sequences: pa.Table) -> pl.DataFrame:
    """Return one row per action, in order; `row` is the user's index in the table, `position` that in the sequence."""
    columns = [name for name in sequences.column_names if name != "user_id"]
    frame = (
        frame_of(sequences).with_row_index("row").with_columns(position=pl.int_ranges(pl.col("item_ids").list.len()))
    )
    frame = frame.filter(pl.col("position").list.len() > 0).explode([*columns, "position"])
    one = {"item_ids": "item_id", "domains": "domain", "timestamps": "timestamp", "splits": "split"}
    return frame.rename(one).with_columns(pl.col("row", "position").cast(pl.Int64))


def training_prefix(sequences: pa.Table) -> pl.DataFrame:
    """Return the actions that enrichment may know: those of the training prefix."""
    return actions(sequences).filter(pl.col("split") == TRAIN)


def trained_users(sequences: pa.Table) -> pa.Table:
    """Return the rows of the users that have a training action: all but those of queries."""
    return sequences.filter(frame_of(sequences)["splits"].list.contains(TRAIN).to_arrow())


def prompt_visible(sequences: pa.Table, prompt_share: float) -> pl.DataFrame:
    """Return the first share `prompt_share` of each user's training prefix; at least its last action is left out."""
    length = pl.len().over("row")
    shown = (length * prompt_share + 1e-9).floor().clip(upper_bound=length - 1)
    return training_prefix(sequences).filter(pl.int_range(pl.len()).over("row") < shown)


def last_seen(known: pl.DataFrame, users: int) -> pl.Series:
    """Return per user, of `users`, the position of the last of the actions `known`; null where there is none."""
    last = known.group_by("row").agg(pl.col("position").max())
    rows = pl.DataFrame({"row": range(users)}, schema={"row": pl.Int64})
    return rows.join(last, on="row", how="left", maintain_order="left")["position"].cast(pl.Int32)


def prompt_forbidden(sequences: pa.Table, prompt_share: float) -> pl.Series:
    """Return per user the position of the first action that no prompt may show; null for a user without actions.

    It is told by how many training actions there are, not by `prompt_visible`: each is a check of the other.
    """
    length = pl.col("splits").list.count_matches(TRAIN).cast(pl.Int32)
    shown = (length * prompt_share + 1e-9).floor().cast(pl.Int32).clip(upper_bound=length - 1).clip(lower_bound=0)
    return (
        frame_of(sequences).select(pl.when(pl.col("splits").list.len() > 0).then(shown).alias("forbidden")).to_series()
    )


def draw_hidden_domains(
    known: pl.DataFrame, seed: int, purpose: str, least_hidden: int, least_shown: int
) -> pl.DataFrame:
    """Return (user_id, mark, hidden_domain, hidden) of the users who can be shown without one of their domains.

    They have `least_hidden` of the actions `known` in it and `least_shown` in others. The domain, and `mark`, by which
    users are to be drawn, follow from the hash of seed, purpose and user. `hidden` counts the actions in that domain.
    """
    counts = known.group_by("user_id", "domain").len().with_columns(total=pl.col("len").sum().over("user_id"))
    can_hide = counts.filter(pl.col("len") >= least_hidden, pl.col("total") - pl.col("len") >= least_shown)
    users = can_hide.sort("user_id", "domain").group_by("user_id", maintain_order=True).agg("domain", "len")
    hashes = (hashlib.sha256(f"{seed}\0{purpose}\0{user}".encode()).digest() for user in users["user_id"])
    marks = pl.Series("mark", [int.from_bytes(each[:8], "big") for each in hashes], pl.UInt64)
    at = (pl.col("mark") % pl.col("domain").list.len()).cast(pl.Int64)
    return users.with_columns(marks).select(
        "user_id", "mark", hidden_domain=pl.col("domain").list.get(at), hidden=pl.col("len").list.get(at)
    )


def of_users(table: pa.Table, user_ids: pa.ChunkedArray) -> pl.DataFrame:
    """Return the rows of these users, in the order of `table`, with `row`: the user's index in `user_ids`."""
    users = pl.DataFrame({"user_id": pl.from_arrow(user_ids)}).with_row_index("row")
    return frame_of(table).join(users, on="user_id", maintain_order="left").with_columns(pl.col("row").cast(pl.Int64))
