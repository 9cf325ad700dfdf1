"""Users whose choices in one domain are hidden from prompts, so that answers can be held against them.

One-domain users, for whom answers are asked, have nothing to hold answers against. Probes differ from them: they act in
two domains. Only training actions are used, those that are hidden, too.
"""

import hashlib

import polars as pl
import pyarrow as pa

from data_lake.schemas import PROBES, SEQUENCES
from pipeline.config import EnrichConfig
from pipeline.frames import to_arrow
from pipeline.histories import training_prefix

LEAST_ACTIONS = 3
"""Training actions that a user needs in a domain for it to be hidden, or to be shown."""


def probe(sequences: pa.Table, cfg: EnrichConfig) -> pa.Table:
    """Return PROBES: at most `cfg.probes` users active in two domains, by the hash of seed and user, one domain hidden.

    Which one is hidden is told by the hash, too. A probe is called "u1 without food", and its sequence holds the
    training actions of u1 in the other domains.
    """
    known = training_prefix(sequences)
    active = known.group_by("user_id", "domain").len().filter(pl.col("len") >= LEAST_ACTIONS)
    two = active.group_by("user_id").agg(pl.col("domain").sort()).filter(pl.col("domain").list.len() >= 2)
    marks = [_mark(cfg.seed, user) for user in two["user_id"].to_list()]
    chosen = two.with_columns(mark=pl.Series("mark", marks, pl.UInt64)).sort("mark").head(cfg.probes)
    chosen = chosen.select(
        "user_id",
        hidden_domain=pl.col("domain").list.get((pl.col("mark") % pl.col("domain").list.len()).cast(pl.Int64)),
    )
    theirs = known.join(chosen, on="user_id", maintain_order="left")
    is_hidden = pl.col("domain") == pl.col("hidden_domain")
    rows = theirs.group_by("user_id", maintain_order=True).agg(
        pl.col("hidden_domain").first(),
        hidden_items=pl.col("item_id").filter(is_hidden).unique(maintain_order=True),
        **{name: pl.col(name.removesuffix("s")).filter(~is_hidden) for name in SEQUENCES.tables[""].names[1:]},
    )
    named = rows.with_columns(real_user_id="user_id", user_id=pl.format("{} without {}", "user_id", "hidden_domain"))
    return to_arrow(named, PROBES)


def _mark(seed: int, user: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0probe\0{user}".encode()).digest()[:8], "big")
