"""Copy a training set with other items in the place of the inserted ones: random ones, or what users really chose.

    python -m benchmarks.other_items --data DIR --out DIR
    python -m benchmarks.other_items --data DIR --out DIR --thinned DIR --true 0.1

What a training set is worth beside its random copy is what good answers are worth. Where the data is a thinned copy of
food-kitchen (--thinned, see `benchmarks.thin`), the actions taken from a user are answers that are right: in the place
of a share --true of the inserted items they show what answers of that precision would be worth. With 1 an inserted item
without such an action is dropped. Real items and profiles stay as they are.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.food_kitchen import food_kitchen
from data_lake.schemas import TRAINING_SET
from data_lake.tables import read_tables, write_parts
from model.data.training_set import TrainingSet

LISTS = ("items", "times", "splits", "synthetic", "weights")
Ints = NDArray[np.int32]


def random_items(data: TrainingSet, seed: int) -> Ints:
    """Return the flat items with another item of its domain, drawn at random, in the place of each inserted one."""
    rng = np.random.default_rng(seed)
    items = data.items.copy()
    for domain, candidates in enumerate(data.domain_items):
        inserted = np.flatnonzero(data.synthetic & (data.item_domain[items] == domain))
        items[inserted] = rng.choice(candidates, len(inserted))
    return items


def true_items(data: TrainingSet, thinned: Path, share: float, seed: int) -> Ints:
    """Return the flat items with actions that thinning took from the user in the place of a `share` of inserted ones.

    No action is used twice. With a share of 1 an inserted item without an action left is 0: to be dropped.
    """
    taken = pl.read_parquet(food_kitchen() / "interactions.parquet", columns=["user_id", "item_id"])
    left = pl.read_parquet(thinned / "interactions.parquet", columns=["user_id", "item_id"])
    taken = taken.join(left, on=["user_id", "item_id"], how="anti").unique(maintain_order=True)
    number = {item_id: index for index, item_id in enumerate(data.item_ids.to_pylist())}
    rng = np.random.default_rng(seed)
    right: dict[str, list[int]] = {}
    for user, item_ids in taken.group_by("user_id", maintain_order=True).agg("item_id").iter_rows():
        right[user] = rng.permutation([number[item_id] for item_id in item_ids]).tolist()
    items, users = data.items.copy(), data.user_ids.to_pylist()
    for row in range(data.n_users):
        mine = right.get(users[row], [])
        for position in np.flatnonzero(data.synthetic[data.offsets[row] : data.offsets[row + 1]]) + data.offsets[row]:
            if share == 1:
                items[position] = mine.pop() if mine else 0
            elif rng.random() < share and mine:
                items[position] = mine.pop()
    return items


def write_copy(folder: Path, data: TrainingSet, items: Ints, out: Path) -> None:
    """Copy the training set `data` in `folder` to `out` with these flat items; positions of the item 0 are dropped."""
    stays = items > 0
    offsets = np.concatenate([[0], np.cumsum(stays)])[data.offsets]
    sequences = read_tables(folder, TRAINING_SET, "sequences")
    for name in LISTS:
        field = sequences.schema.field(name)
        flat = pa.array(items, pa.int32()) if name == "items" else pc.list_flatten(sequences[name]).combine_chunks()
        values = flat.filter(pa.array(stays))
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values).cast(field.type)
        sequences = sequences.set_column(sequences.column_names.index(name), field, lists)
    partial = out.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    shutil.rmtree(partial / "sequences")
    write_parts(sequences, partial / "sequences")
    partial.rename(out)


def main() -> None:
    """Write the copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a training set")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--thinned", type=Path, help="folder of the thinned copy that the training set was made of")
    parser.add_argument("--true", type=float, default=1.0, help="share of the inserted items")
    given = parser.parse_args()
    data = TrainingSet.load(given.data)
    true = given.thinned is not None
    items = true_items(data, given.thinned, given.true, given.seed) if true else random_items(data, given.seed)
    write_copy(given.data, data, items, given.out)
    inserted, dropped = int(data.synthetic.sum()), int((items == 0).sum())
    what = f"a share of {given.true} replaced by what the users chose" if true else "replaced by random ones"
    print(f"{given.out}: {inserted:,} inserted items {what}, {dropped:,} dropped")


if __name__ == "__main__":
    main()
