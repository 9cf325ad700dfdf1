"""Users whose choices in one domain are hidden from prompts, so that answers can be held against them.

One-domain users, for whom answers are asked, have nothing to hold answers against. Probes differ from them: they act in
two domains. Only training actions are used, those that are hidden, too.
"""

from collections.abc import Callable, Iterable

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


def probe(parts: Callable[[], Iterable[pa.Table]], cfg: EnrichConfig) -> pa.Table:
    """Return PROBES: at most `cfg.probes` users active in two domains, one of which is hidden.

    `parts` gives the sequences, part by part, and is called twice. Which users and which domain is told by the hash of
    seed and user; users of whom MANY_HIDDEN actions are hidden come first. A probe is called "u1 without food", and its
    sequence holds the training actions of u1 in the other domains.
    """
    first = pl.concat(_first(_draw(training_prefix(part), cfg.seed), cfg.probes) for part in parts())
    chosen = _first(first, cfg.probes).select("user_id", "hidden_domain")
    rows = pl.concat(_rows(training_prefix(part), chosen) for part in parts())
    named = rows.with_columns(real_user_id="user_id", user_id=pl.format("{} without {}", "user_id", "hidden_domain"))
    return to_arrow(named, PROBES)


def _draw(known: pl.DataFrame, seed: int) -> pl.DataFrame:
    return draw_hidden_domains(known, seed, "probe", least_hidden=1, least_shown=LEAST_SHOWN)


def _first(drawn: pl.DataFrame, most: int) -> pl.DataFrame:
    return drawn.sort(pl.col("hidden") < MANY_HIDDEN, "mark").head(most)


def _rows(known: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the chosen users among those whose actions are given."""
    theirs = known.join(chosen, on="user_id", maintain_order="left")
    is_hidden = pl.col("domain") == pl.col("hidden_domain")
    return theirs.group_by("user_id", maintain_order=True).agg(
        pl.col("hidden_domain").first(),
        hidden_items=pl.col("item_id").filter(is_hidden).unique(maintain_order=True),
        **{name: pl.col(name.removesuffix("s")).filter(~is_hidden) for name in SEQUENCES.tables[""].names[1:]},
    )
