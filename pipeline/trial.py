"""The data of a trial: users of two domains, of whom one domain is hidden but for one action."""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from pipeline.histories import draw_hidden_domains, training_prefix

LEAST_HIDDEN = 3
"""Training actions in the hidden domain: one stays, and the last two become the targets."""
LEAST_SHOWN = 3
"""Training actions in other domains."""


@dataclass(frozen=True)
class Trial:
    """Interactions (user_id, item_id, domain, timestamp, position), and the hidden domain of each trial user."""

    interactions: pa.Table
    hidden: dict[str, str]


def make_trial(sequences: pa.Table, users: int, seed: int) -> Trial:
    """Return a trial with `users` users, who with the hidden domain are told by the hash of seed and id.

    Only training actions are read. Everybody keeps them, but of a trial user the hidden domain keeps the first action,
    and its last two come a second after all others: split by leave-one-out they are the validation and the test target.
    Raises UserError where not so many users act in two domains.
    """
    known = training_prefix(sequences).select("user_id", "item_id", "domain", "timestamp", "position")
    hidden = _hidden(known, users, seed)
    marked = known.join(hidden, on="user_id", how="left", maintain_order="left").with_columns(
        is_hidden=(pl.col("domain") == pl.col("hidden")).fill_null(False)
    )
    nth = pl.int_range(pl.len()).over("user_id", "is_hidden")
    left = pl.len().over("user_id", "is_hidden") - nth
    is_target = pl.col("is_hidden") & (left <= 2)
    stays = marked.with_columns(is_target=is_target, stays=~pl.col("is_hidden") | (nth == 0) | is_target).filter(
        "stays"
    )
    last = pl.col("timestamp").max().over("user_id") + timedelta(seconds=1)
    moved = stays.with_columns(timestamp=pl.when("is_target").then(last).otherwise("timestamp"))
    ordered = moved.sort("is_target", "position").sort("user_id", maintain_order=True)
    table = ordered.select("user_id", "item_id", "domain", "timestamp", position=pl.int_range(pl.len()).over("user_id"))
    return Trial(table.to_arrow(), dict(hidden.select("user_id", "hidden").iter_rows()))


def _hidden(known: pl.DataFrame, users: int, seed: int) -> pl.DataFrame:
    """Return (user_id, hidden) of the trial users, the hidden domain of each."""
    able = draw_hidden_domains(known, seed, "trial", LEAST_HIDDEN, LEAST_SHOWN)
    if len(able) < users:
        raise UserError(
            f"{len(able)} users have {LEAST_HIDDEN} training actions in one domain and {LEAST_SHOWN} in others; a "
            f"trial of {users} is not possible. Ask for fewer with --users."
        )
    return able.sort("mark").head(users).select("user_id", hidden="hidden_domain")
