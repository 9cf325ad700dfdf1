"""A training set whose inserted items are drawn at random."""

from pathlib import Path

import numpy as np

from model.data.training_set import TrainingSet
from tests.benchmarks.conftest import lines_of


def test_random_items_stand_where_inserted_ones_stood_and_real_ones_stay(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "random"
    shown = lines_of("random_items", "--data", tiny_folder, "--out", out)
    assert shown == [f"{out}: 20 synthetic items replaced by random ones"]
    whole, random = TrainingSet.load(tiny_folder), TrainingSet.load(out)
    assert np.array_equal(whole.synthetic, random.synthetic)
    assert np.array_equal(whole.items[~whole.synthetic], random.items[~whole.synthetic])
    before, after = whole.items[whole.synthetic], random.items[whole.synthetic]
    assert not np.array_equal(before, after)
    assert np.array_equal(whole.item_domain[before], random.item_domain[after])
