from data_lake.schemas import ITEM_EMBEDDINGS
from data_lake.tables import check
from pipeline.vectors.embed_items import embed_items
from tests.pipeline.worlds import Angles, items_table


def test_an_item_without_text_has_no_vector():
    items = items_table(food=[0, None, 90])
    table = check(embed_items(items, Angles()), ITEM_EMBEDDINGS)
    assert [vector and [round(x) for x in vector] for vector in table["vector"].to_pylist()] == [[1, 0], None, [0, 1]]
    nothing = check(embed_items(items.slice(1, 1), Angles()), ITEM_EMBEDDINGS)
    assert nothing["vector"].type.list_size == 2
