"""A training set whose inserted items are drawn at random."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.data.training_set import TrainingSet
from tests.benchmarks.conftest import lines_of


def test_random_items_stand_where_inserted_ones_stood_and_real_ones_stay(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "random"
    shown = lines_of("other_items", "--data", tiny_folder, "--out", out)
    assert shown == [f"{out}: 20 inserted items replaced by random ones, 0 dropped"]
    whole, random = TrainingSet.load(tiny_folder), TrainingSet.load(out)
    assert np.array_equal(whole.synthetic, random.synthetic)
    assert np.array_equal(whole.items[~whole.synthetic], random.items[~whole.synthetic])
    before, after = whole.items[whole.synthetic], random.items[whole.synthetic]
    assert not np.array_equal(before, after)
    assert np.array_equal(whole.item_domain[before], random.item_domain[after])


@pytest.fixture
def thinned(tiny_folder: Path, tmp_path: Path) -> Path:
    """A folder that stands for $EDT_DATA, with a copy in which each user lost the last item of the catalogue."""
    data = TrainingSet.load(tiny_folder)
    users, last = data.user_ids.to_pylist(), data.item_ids[data.n_items].as_py()
    for folder, items in (("food-kitchen", ["kept", last]), ("copy", ["kept"])):
        (tmp_path / folder).mkdir()
        rows = [{"user_id": user, "item_id": item} for user in users for item in items]
        pl.DataFrame(rows).write_parquet(tmp_path / folder / "interactions.parquet")
    return tmp_path


@pytest.mark.parametrize("share", [1, 0.999])
def test_true_items_are_those_that_thinning_took_each_once(tiny_folder: Path, thinned: Path, share: float) -> None:
    out = thinned / "true"
    lines_of(
        "other_items", "--data", tiny_folder, "--out", out, "--thinned", thinned / "copy", "--true", share, data=thinned
    )
    whole, true = TrainingSet.load(tiny_folder), TrainingSet.load(out)
    inserted = [
        true.items[start:end][true.synthetic[start:end]].tolist()
        for start, end in zip(true.offsets[:-1], true.offsets[1:], strict=True)
    ]
    had = [
        int(whole.synthetic[start:end].sum()) for start, end in zip(whole.offsets[:-1], whole.offsets[1:], strict=True)
    ]
    last = whole.n_items
    assert [items.count(last) for items in inserted] == [min(count, 1) for count in had]
    assert list(map(len, inserted)) == ([min(count, 1) for count in had] if share == 1 else had)
    assert true.items[~true.synthetic].tolist() == whole.items[~whole.synthetic].tolist()
