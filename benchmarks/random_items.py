"""Copy a training set with another item of the domain, drawn at random, in the place of each synthetic one.

    python -m benchmarks.random_items --data DIR --out DIR

Real items and profiles stay as they are. What the copy is worth beside the original is what good answers are worth.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_lake.schemas import TRAINING_SET
from data_lake.tables import read_tables, write_parts
from model.data.training_set import TrainingSet


def with_random_items(folder: Path, out: Path, seed: int) -> int:
    """Copy the training set in `folder` to `out`, where it is not there yet; return how many items are synthetic."""
    data = TrainingSet.load(folder)
    synthetic = int(data.synthetic.sum())
    if out.exists():
        return synthetic
    rng = np.random.default_rng(seed)
    items = data.items.copy()
    for domain, candidates in enumerate(data.domain_items):
        inserted = np.flatnonzero(data.synthetic & (data.item_domain[items] == domain))
        items[inserted] = rng.choice(candidates, len(inserted))
    sequences = read_tables(folder, TRAINING_SET, "sequences")
    field = sequences.schema.field("items")
    lists = pa.ListArray.from_arrays(pa.array(data.offsets, pa.int32()), pa.array(items, pa.int32())).cast(field.type)
    changed = sequences.set_column(sequences.column_names.index("items"), field, lists)
    partial = out.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    shutil.rmtree(partial / "sequences")
    write_parts(changed, partial / "sequences")
    partial.rename(out)
    return synthetic


def main() -> None:
    """Write the copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a training set")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    synthetic = with_random_items(given.data, given.out, given.seed)
    print(f"{given.out}: {synthetic:,} synthetic items replaced by random ones")


if __name__ == "__main__":
    main()
