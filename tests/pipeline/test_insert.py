import pytest

from data_lake.schemas import AUGMENTED_SEQUENCES
from data_lake.tables import check
from pipeline.augment.insert import insert
from tests.pipeline.worlds import grounded_by


def test_kept_items_stand_before_the_last_shown_item_or_after_the_most_similar():
    table, sequences, catalogue, cfg, _ = grounded_by(["x 10", "x 0"], noise_filter=False)
    plain = sequences["item_ids"][0].as_py()
    made = check(insert(sequences, table, catalogue, cfg, ("food", "kitchen")), AUGMENTED_SEQUENCES)
    assert made["item_ids"][0].as_py() == [*plain[:8], "kitchen_0", "kitchen_10", *plain[8:]]
    assert made["synthetic"][0].as_py() == [False] * 8 + [True] * 2 + [False] * 5
    assert made["weights"][0].as_py() == pytest.approx([0] * 8 + [0.2] * 2 + [0] * 5)
    assert made["splits"][0].as_py() == ["train"] * 13 + ["validation", "test"]
    assert made["timestamps"][0].as_py()[8:11] == [sequences["timestamps"][0].as_py()[8]] * 3
    similar = insert(sequences, table, catalogue, cfg.model_copy(update={"place": "similar"}), ("food", "kitchen"))
    # kitchen_10 is most like food_2, at index 2; kitchen_0 like food_0, last shown at index 8
    assert similar["item_ids"][0].as_py() == [*plain[:3], "kitchen_10", *plain[3:9], "kitchen_0", *plain[9:]]
    none = insert(sequences, table.slice(0, 0), catalogue, cfg, ("food", "kitchen"))
    assert none["item_ids"][0].as_py() == plain
