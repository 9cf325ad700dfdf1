"""Phase-1 training speed and memory as users and items grow: seconds per sequence should stay flat.

    python -m benchmarks.growth                                # 10 k to 1 M simulated users, 50 k and 1 M items
    python -m benchmarks.growth --sizes 10000x50000 100000x50000 --steps 20

Each size is a process of its own that loads a training set of that size and trains --steps steps of the default
settings, and twice as many, three times each: of the medians, the slope is the time of a step, the rest what an epoch
costs once. `validate` is the time to rank 1,000 targets among their whole domain. Memory is the peak of the process,
the data included.
"""

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.memory import peak_mib
from data_lake.schemas import SPLITS, TEST, TRAIN, TRAINING_SET, TRAINING_SET_VERSION, VALIDATION
from data_lake.tables import check, write_parts
from model.config import TrainConfig
from model.data.training_set import TrainingSet
from model.training.train import prepare
from pipeline.sample_world.simulate import SimulateConfig, simulate

SIZES = ("10000x50000", "100000x50000", "1000000x50000", "100000x1000000", "1000000x1000000")
TARGETS = 1000
REPEATS = 3
ROWS_AT_ONCE = 65_536


def write_world(users: int, items: int, text_size: int, folder: Path) -> None:
    """Write the training set of a simulated world: its last action is a user's test target, the one before validation.

    Text vectors are random unit vectors and there are no profiles: they cost what real ones do.
    """
    world = simulate(SimulateConfig(users=users, items=items // 2))
    names = world.items["item_id"].combine_chunks()
    number = pc.index_in(world.interactions["item_id"], value_set=names).to_numpy().astype(np.int32) + 1
    owner = world.interactions["user_id"].combine_chunks().dictionary_encode()
    starts = np.flatnonzero(np.diff(owner.indices.to_numpy(), prepend=-1))  # a user's rows stand together
    offsets = np.append(starts, len(number)).astype(np.int32)
    splits = np.full(len(number), SPLITS.index(TRAIN), np.int8)
    splits[offsets[1:] - 1], splits[offsets[1:] - 2] = SPLITS.index(TEST), SPLITS.index(VALIDATION)
    rng = np.random.default_rng(0)
    numbers = pa.array(np.arange(1, len(names) + 1, dtype=np.int32))
    rows = pa.array(np.arange(1, users + 1, dtype=np.int32))
    tables = {
        "item_vectors": {"item": numbers, "vector": _unit_vectors(rng, len(names), text_size)},
        "sequences": {
            "user": rows,
            "items": _lists("items", offsets, number),
            "times": _lists("times", offsets, world.interactions["timestamp"].to_numpy() * 1000),
            "splits": _lists("splits", offsets, splits),
            "synthetic": _lists("synthetic", offsets, np.zeros(len(number), np.bool_)),
            "weights": _lists("weights", offsets, np.zeros(len(number), np.float32)),
        },
        "users": {"user": rows, "user_id": owner.dictionary, "key": _keys(rng, users)},
        "items": {
            "item": numbers,
            "item_id": names,
            "domain": world.items["domain"],
            "title": world.items["title"],
            "train_actions": np.bincount(number[splits == SPLITS.index(TRAIN)], minlength=len(names) + 1)[1:],
            "key": _keys(rng, len(names)),
        },
        "info": {
            "contract_version": pa.array([TRAINING_SET_VERSION], pa.int32()),
            "candidates_seed": [0],
            "domains": [["food", "kitchen"]],
            "times": ["real"],
        },
    }
    for name, columns in tables.items():
        write_parts(check(pa.table(columns), TRAINING_SET, name), folder / name)
    write_parts(TRAINING_SET.tables["profile_vectors"].empty_table(), folder / "profile_vectors")


def _lists(column: str, offsets: NDArray[np.int32], values: NDArray[Any]) -> pa.Array:
    kind = TRAINING_SET.tables["sequences"].field(column).type.value_type
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values).cast(kind))


def _unit_vectors(rng: np.random.Generator, count: int, size: int) -> pa.Array:
    vectors = np.empty((count, size), np.float32)
    for start in range(0, count, ROWS_AT_ONCE):
        part = rng.standard_normal((len(vectors[start : start + ROWS_AT_ONCE]), size), dtype=np.float32)
        vectors[start : start + ROWS_AT_ONCE] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), size)


def _keys(rng: np.random.Generator, count: int) -> pa.Array:
    return pa.array(rng.integers(2**63, size=count).astype(np.uint64))


@dataclass(frozen=True)
class Figures:
    """What is measured of one size."""

    load: float
    """Seconds to read the training set and to prepare the training."""
    per_second: float
    """Sequences trained a second."""
    once: float
    """Seconds that an epoch costs besides its steps."""
    validate: float
    """Seconds to rank `TARGETS` targets."""
    peak_mib: float


def train_some(folder: Path, steps: int, settings: dict[str, Any]) -> Figures:
    """Train on a training set for some steps; the process must be new, since its peak of memory is measured."""
    started = time.perf_counter()
    data = TrainingSet.load(folder)
    cfg = TrainConfig.model_validate({"select_users": TARGETS, **settings})
    with tempfile.TemporaryDirectory() as out:
        loop = prepare(data, cfg, "pretrain", Path(out), Path(out))
        load = time.perf_counter() - started
        size, every = cfg.pretrain.batch_size, loop.users
        draw = np.random.default_rng(0).permutation(every)
        taken, seconds = 0, []
        for number, count in enumerate((2, *(steps, 2 * steps) * REPEATS), start=1):  # the first one warms up
            begun = time.perf_counter()
            taken = loop.epoch(number, taken, [], draw[: count * size])[0].steps
            seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        loop.validate()
        validate = time.perf_counter() - begun
    short, long = np.median(seconds[1::2]), np.median(seconds[2::2])
    per_step = (long - short) / steps
    once = float(short - steps * per_step)
    return Figures(load, float(size / per_step), once, validate, peak_mib())


def main() -> None:
    """Print a line per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="USERSxITEMS")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--text-size", type=int, default=384)
    parser.add_argument("--settings", default="{}", metavar="JSON", help='of the trainer, such as {"threads": 1}')
    parser.add_argument("--out", type=Path, default=Path("growth"), help="where the worlds are kept")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of the processes that train
    print(f"{given.steps} and {2 * given.steps} steps, text vectors of {given.text_size}, settings {given.settings}")
    print(f"{'users':>10} {'items':>10} {'sequences/s':>12} {'ms/sequence':>12} {'once an epoch':>14} {'validate':>9} "
          f"{'load':>7} {'peak MiB':>8}")  # fmt: skip
    for size in given.sizes:
        users, items = map(int, size.split("x"))
        folder = given.out / f"{size}x{given.text_size}"
        if not (folder / "info").exists():
            write_world(users, items, given.text_size, folder)
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            it = process.submit(train_some, folder, given.steps, json.loads(given.settings)).result()
        print(
            f"{users:>10,} {items:>10,} {it.per_second:>12.0f} {1000 / it.per_second:>12.2f} "
            f"{it.once:>12.2f} s {it.validate:>7.2f} s {it.load:>5.1f} s {it.peak_mib:>8,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
