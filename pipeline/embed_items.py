"""Turn each item's text into a vector."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_lake.schemas import ITEM_EMBEDDINGS
from pipeline.catalogue import vector_column
from pipeline.embedding import Embed


def embed_items(items: pa.Table, embed: Embed) -> pa.Table:
    """Return ITEM_EMBEDDINGS, one row per row of `items`; the vector is null where an item has no text."""
    vectors, has_text = embed_texts(items["text"], embed)
    columns = [items["item_id"], items["domain"], vector_column(vectors, has_text)]
    return pa.table([*columns, *signed(embed, items.num_rows)], names=ITEM_EMBEDDINGS.tables[""].names)


def embed_texts(texts: pa.ChunkedArray, embed: Embed) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, d) vectors and which rows have a text. Equal texts are encoded once."""
    coded = pc.dictionary_encode(texts).combine_chunks()
    distinct = coded.dictionary.to_pylist()
    encoded = embed(distinct) if distinct else np.zeros((0, embed(["-"]).shape[1]), dtype=np.float32)
    has_text = np.asarray(coded.indices.is_valid())
    vectors = np.zeros((len(texts), encoded.shape[1]), dtype=np.float32)
    vectors[has_text] = encoded[coded.indices.drop_null().to_numpy()]
    return vectors, has_text


def signed(embed: Embed, rows: int) -> list[pa.Array]:
    """Return the columns `model` and `revision`."""
    return [pa.repeat(pa.scalar(embed.model), rows), pa.repeat(pa.scalar(embed.revision), rows)]
