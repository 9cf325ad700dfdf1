"""The arms of the comparison of generators."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.enrichment import in_world, with_random_items
from data_lake.schemas import RANKS, TRAINING_SET
from data_lake.tables import write_parts
from model.data.training_set import TrainingSet
from tests.model.conftest import tiny_tables


def test_random_items_stand_where_inserted_ones_stood_and_real_ones_stay(tmp_path: Path) -> None:
    for name, table in tiny_tables().items():
        write_parts(table, tmp_path / "whole" / name)
    assert set(tiny_tables()) == set(TRAINING_SET.tables)
    whole = TrainingSet.load(tmp_path / "whole")
    random = TrainingSet.load(with_random_items(tmp_path / "whole", tmp_path / "random", 0))
    assert np.array_equal(whole.synthetic, random.synthetic)
    assert np.array_equal(whole.items[~whole.synthetic], random.items[~whole.synthetic])
    before, after = whole.items[whole.synthetic], random.items[whole.synthetic]
    assert not np.array_equal(before, after)
    assert np.array_equal(whole.item_domain[before], random.item_domain[after])


def test_users_of_two_worlds_never_share_a_name() -> None:
    names = RANKS.tables[""].names
    rows = {name: pa.nulls(2, RANKS.tables[""].field(name).type) for name in names}
    ranks = pa.table(rows | {"user_id": ["u1", "u2"]})
    assert in_world(ranks, ["u2"], 0)["user_id"].to_pylist() == ["0/u2"]
    assert in_world(ranks, ["u2"], 1)["user_id"].to_pylist() == ["1/u2"]
