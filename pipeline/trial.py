"""The data of a trial: users of two domains, of whom one domain is hidden but for one action."""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl
import pyarrow as pa

from data_lake.errors import UserError
from pipeline.histories import draw_hidden_domains, training_prefix

LEAST_HIDDEN = 2
"""Training actions in the hidden domain: the first stays, the last becomes the target."""
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
    and its last one comes a second after all others. Split by leave-one-out that is the test target, an action in
    another domain the validation target, and the hidden domain has one action to learn from.
    Raises UserError where not so many users act in two domains.
    """
    known = training_prefix(sequences).select("user_id", "item_id", "domain", "timestamp", "position")
    hidden = _hidden(known, users, seed)
    marked = known.join(hidden, on="user_id", how="left", maintain_order="left").with_columns(
        is_hidden=(pl.col("domain") == pl.col("hidden")).fill_null(False)
    )
    nth = pl.int_range(pl.len()).over("user_id", "is_hidden")
    is_target = pl.col("is_hidden") & (nth == pl.len().over("user_id", "is_hidden") - 1)
    stays = marked.with_columns(is_target=is_target).filter(~pl.col("is_hidden") | (nth == 0) | is_target)
    last = pl.col("timestamp").max().over("user_id") + timedelta(seconds=1)
    moved = stays.with_columns(timestamp=pl.when("is_target").then(last).otherwise("timestamp"))
    ordered = moved.sort("is_target", "position").sort("user_id", maintain_order=True)
    table = ordered.select("user_id", "item_id", "domain", "timestamp", position=pl.int_range(pl.len()).over("user_id"))
    return Trial(table.to_arrow(), dict(hidden.select("user_id", "hidden").iter_rows()))


def _hidden(known: pl.DataFrame, users: int, seed: int) -> pl.DataFrame:
    """Return (user_id, hidden) of the trial users, the hidden domain of each."""
    if known["domain"].n_unique() < 2:
        raise UserError("All training actions lie in one domain: there is no other one whose items could be asked for.")
    drawn = draw_hidden_domains(known, seed, "trial", LEAST_HIDDEN, LEAST_SHOWN)
    theirs = known.join(drawn, on="user_id").group_by("user_id", pl.col("domain") == pl.col("hidden_domain"))
    ends = theirs.agg(first=pl.col("position").min(), last=pl.col("position").max())
    first = ends.filter("domain").select("user_id", "first")
    able = drawn.join(ends.filter(~pl.col("domain")).select("user_id", "last"), on="user_id").join(first, on="user_id")
    able = able.filter(pl.col("first") < pl.col("last"))
    if len(able) < users:
        raise UserError(
            f"{len(able)} users have {LEAST_HIDDEN} training actions in one domain, the first before one of "
            f"{LEAST_SHOWN} in others; a trial of {users} is not possible. "
            + ("Ask for fewer with --users." if len(able) else "Nobody can be hidden a domain of.")
        )
    return able.sort("mark").head(users).select("user_id", hidden="hidden_domain")
