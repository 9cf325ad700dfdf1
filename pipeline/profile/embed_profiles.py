"""Turn profiles, of domains or over all, into vectors."""

from collections.abc import Collection

import polars as pl
import pyarrow as pa

from data_lake.schemas import ALL, PROFILE_EMBEDDINGS
from pipeline.frames import frame_of
from pipeline.vectors.catalogue import vector_column
from pipeline.vectors.embedding import Embed, embed_texts, signed


def profiles_to_embed(domain_profiles: pa.Table, user_profiles: pa.Table, scopes: Collection[str]) -> pa.Table:
    """Return (user_id, scope, text): per user each domain's profile, then the one over all domains.

    Only those of `scopes`: names of domains, and "all".
    """
    per_domain = frame_of(domain_profiles).select("user_id", scope="domain", text="text")
    overall = frame_of(user_profiles).select("user_id", scope=pl.lit(ALL), text="text")
    order = overall.select("user_id").with_row_index("row")
    both = pl.concat([per_domain, overall]).filter(pl.col("scope").is_in(list(scopes)))
    rows = both.join(order, on="user_id", maintain_order="left")
    return rows.sort("row", maintain_order=True).drop("row").to_arrow(compat_level=pl.CompatLevel.oldest())


def embed_profiles(rows: pa.Table, embed: Embed) -> pa.Table:
    """Return PROFILE_EMBEDDINGS, one row per row of `rows` (see `profiles_to_embed`); null where there is no text."""
    vectors, has_text = embed_texts(rows["text"], embed)
    columns = [rows["user_id"], rows["scope"], vector_column(vectors, has_text), *signed(embed, rows.num_rows)]
    return pa.table(columns, names=PROFILE_EMBEDDINGS.tables[""].names)
