"""Turn each item's text into a vector."""

import pyarrow as pa

from data_lake.schemas import ITEM_EMBEDDINGS
from pipeline.vectors.catalogue import vector_column
from pipeline.vectors.embedding import Embed, embed_texts, signed


def embed_items(items: pa.Table, embed: Embed) -> pa.Table:
    """Return ITEM_EMBEDDINGS, one row per row of `items`; the vector is null where an item has no text."""
    vectors, has_text = embed_texts(items["text"], embed)
    columns = [items["item_id"], items["domain"], vector_column(vectors, has_text)]
    return pa.table([*columns, *signed(embed, items.num_rows)], names=ITEM_EMBEDDINGS.tables[""].names)
