import numpy as np

from pipeline.config import ProfileConfig
from pipeline.profile.clusters import assign_clusters, load_or_fit_centres
from tests.pipeline.worlds import DictCache, embedded, items_table, rows_of


def test_a_new_item_moves_no_centre():
    cache, cfg = DictCache(), ProfileConfig(clusters=2)
    before = embedded(items_table(food=[0, 2, 88, 90]))
    centres = load_or_fit_centres(before, cfg, ("food",), cache)
    first = dict(rows_of(assign_clusters(before, centres), "item_id", "cluster"))
    assert first["food_0"] == first["food_2"] != first["food_88"] == first["food_90"]
    after = embedded(items_table(food=[0, 2, 88, 90, 45, 47, 44, None]))
    again = load_or_fit_centres(after, cfg, ("food",), cache)
    assert np.array_equal(again["food"], centres["food"])
    second = dict(rows_of(assign_clusters(after, again), "item_id", "cluster"))
    assert first.items() <= second.items()
    assert "food_None" not in second
    assert len(load_or_fit_centres(after, ProfileConfig(clusters=3), ("food",), cache)["food"]) == 3
