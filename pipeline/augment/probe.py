"""Users whose choices in one domain are hidden from prompts, so that answers can be held against them.

One-domain users, for whom answers are asked, have nothing to hold answers against. Probes differ from them: they act in
two domains. Only training actions are used, those that are hidden, too.
"""

import polars as pl
import pyarrow as pa

from data_lake.schemas import PROBES, SEQUENCES
from pipeline.config import EnrichConfig
from pipeline.frames import to_arrow
from pipeline.histories import draw_hidden_domains, training_prefix

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
    drawn = draw_hidden_domains(known, cfg.seed, "probe", least_hidden=1, least_shown=LEAST_SHOWN)
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
