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

LEAST_SHOWN = 3
"""Training actions in other domains that a user needs for a domain to be hidden."""
MANY_HIDDEN = 3
"""Users with as many actions in the hidden domain come first: they tell more for a question."""


def probe(sequences: pa.Table, cfg: EnrichConfig) -> pa.Table:
    """Return PROBES: at most `cfg.probes` users active in two domains, one of which is hidden.

    Which users and which domain is told by the hash of seed and user; users of whom MANY_HIDDEN actions are hidden come
    first. A probe is called "u1 without food", and its sequence holds the training actions of u1 in the other domains.
    """
    known = training_prefix(sequences)
    counts = known.group_by("user_id", "domain").len().with_columns(total=pl.col("len").sum().over("user_id"))
    can_hide = counts.filter(pl.col("total") - pl.col("len") >= LEAST_SHOWN).sort("user_id", "domain")
    users = can_hide.group_by("user_id", maintain_order=True).agg("domain", "len")
    marks = pl.Series("mark", [_mark(cfg.seed, user) for user in users["user_id"].to_list()], pl.UInt64)
    at = (pl.col("mark") % pl.col("domain").list.len()).cast(pl.Int64)
    drawn = users.with_columns(marks).select(
        "user_id", "mark", hidden_domain=pl.col("domain").list.get(at), hidden=pl.col("len").list.get(at)
    )
    first = drawn.sort(pl.col("hidden") < MANY_HIDDEN, "mark").head(cfg.probes)
    chosen = first.select("user_id", "hidden_domain")
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
