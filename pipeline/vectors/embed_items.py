"""Turn each item's text into a vector."""

import polars as pl
import pyarrow as pa

from data_lake.schemas import ITEM_EMBEDDINGS, ITEMS
from pipeline.frames import frame_of, to_arrow
from pipeline.vectors.catalogue import vector_column
from pipeline.vectors.embedding import Embed, embed_texts, signed

DESCRIBED = "+described"
"""Ends the revision of vectors of described items: what was fitted to vectors of other texts is fitted again."""


def embed_items(items: pa.Table, embed: Embed, is_described: bool = False) -> pa.Table:
    """Return ITEM_EMBEDDINGS, one row per row of `items`; the vector is null where an item has no text.

    `is_described` says that the texts are those of `with_descriptions`.
    """
    vectors, has_text = embed_texts(items["text"], embed)
    model, revision = signed(embed, items.num_rows, DESCRIBED if is_described else "")
    columns = [items["item_id"], items["domain"], vector_column(vectors, has_text), model, revision]
    return pa.table(columns, names=ITEM_EMBEDDINGS.tables[""].names)


def with_descriptions(items: pa.Table, descriptions: pa.Table) -> pa.Table:
    """Return ITEMS in which each item's text is followed by its description, where ITEM_DESCRIPTIONS have one.

    Such as "Green tea, 20 bags. calm evenings, for guests. Goes with glass teapot, honey spoon".
    """
    described = frame_of(descriptions).filter(pl.col("status") == "ok").select("item_id", "attributes", "goes_with")
    joined = frame_of(items).join(described, on="item_id", how="left", maintain_order="left")
    said = (pl.col("attributes").list.join(", "), pl.col("goes_with").list.join(", "))
    longer = pl.format("{}. {}. Goes with {}", pl.col("text").str.strip_chars_end(". "), *said)
    text = pl.when(pl.col("attributes").is_null()).then("text").otherwise(longer)
    return to_arrow(joined.with_columns(text=text), ITEMS)
