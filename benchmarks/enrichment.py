"""Train on sample worlds with each kind of enrichment, and compare each with none: what the language model is worth.

    python -m benchmarks.enrichment --worlds 0 1 2 3 4
    python -m benchmarks.enrichment --worlds 0 --users 300 --items 300 --seeds 1 --set train.pretrain.epochs=3

Test targets of imbalanced users in their scarce domain. A user is averaged over the training seeds, then the users of
all worlds are resampled. edt-tiny knows the simulator's law: this shows that good answers arrive, not that a given
language model gives them. "random items" is the whole method with another item of the domain in each inserted one's
place. All arms train with the settings that `edt sample` writes. An interrupted command goes on where it stood.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.runs import about, runs, train_config, training_set
from benchmarks.sample_world import GENERATORS, world_settings
from data_lake.schemas import TEST, TRAINING_SET
from data_lake.tables import read_tables, write_parts
from flows.text import log
from model.data.training_set import TrainingSet
from model.evaluation.candidates import find_targets
from model.evaluation.compare import paired
from model.evaluation.groups import groups
from pipeline.sample_world.simulate import SimulateConfig

NONE, WHOLE, RANDOM = "no enrichment", "edt-tiny, whole method", "random items"
ARMS = {
    NONE: ("enrich.generator=none",),
    "retrieval": GENERATORS["retrieval"],
    "edt-tiny, no filter": (*GENERATORS["edt-tiny"], "enrich.noise_filter=false"),
    WHOLE: GENERATORS["edt-tiny"],
}
GROUP = "imbalance>=0.9 and scarce-domain"
SHOWN = ("HR@10", "NDCG@10")


def with_random_items(folder: Path, out: Path, seed: int) -> Path:
    """Copy a training set to `out`, where it is not there yet, with a random item of its domain for each synthetic one.

    Profiles stay as they are.
    """
    if out.exists():
        return out
    data = TrainingSet.load(folder)
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
    return out


def of_group(data: TrainingSet) -> list[str]:
    """Return the users whose test target the comparison is about."""
    targets = find_targets(data, TEST)
    users: list[str] = data.user_ids.take(pa.array(targets.users[groups(data, targets)[GROUP]])).to_pylist()
    return users


def in_world(ranks: pa.Table, users: list[str], world: int) -> pa.Table:
    """Return the rows of these users, named so that no user of another world is called the same."""
    mine = pl.DataFrame(ranks).filter(pl.col("user_id").is_in(users))
    return mine.with_columns(user_id=pl.format("{}/{}", pl.lit(world), "user_id")).to_arrow()


def main() -> None:
    """Make what is missing, then print a line per arm, phase and metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="SEED")
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=2, help="of the training, per world")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as train.preset=paper")
    parser.add_argument("--out", type=Path, default=Path("sample-worlds"))
    given = parser.parse_args()

    ranks: dict[str, list[pa.Table]] = {}
    for world in given.worlds:
        cfg = SimulateConfig(users=given.users, items=given.items, seed=world)
        folders = {}
        for arm, overrides in ARMS.items():
            settings = world_settings(given.out, cfg, ["lake.keep=20", *overrides, *given.set])
            folders[arm] = training_set(settings)
        random = given.out / "random-items" / f"{given.users}-{given.items}-{world}-{folders[WHOLE].name[:12]}"
        random.parent.mkdir(exist_ok=True)
        folders[RANDOM] = with_random_items(folders[WHOLE], random, world)
        users = of_group(TrainingSet.load(folders[NONE]))
        for arm, folder in folders.items():
            data = TrainingSet.load(folder)
            made = runs(folder, data.digest, train_config(settings), range(given.seeds), given.out)
            log(f"world {world}, {arm}: {about(data)}")
            ranks.setdefault(arm, []).extend(in_world(run.ranks, users, world) for run in made)

    print(f"worlds {given.worlds}, {given.users:,} users, {given.items:,} items a domain, {given.seeds} training seeds")
    print(f"test, full ranking, {GROUP} {' '.join(given.set)}")
    print(f"{'':<24} {'phase':<9} {'metric':<8} {'value':>7} {'to none':>9}  95 % interval")
    for arm in (NONE, "retrieval", RANDOM, "edt-tiny, no filter", WHOLE):
        for phase in ("pretrain", "finetune"):
            found = paired(ranks[arm], ranks[NONE], phases=(phase, phase))
            for metric in SHOWN:
                it = found[metric]
                print(
                    f"{arm:<24} {phase:<9} {metric:<8} {it.a:>7.4f} {it.difference:>+9.4f}  "
                    f"[{it.low:+.4f}, {it.high:+.4f}]  p = {it.p:.4f}  ({it.users:,} users)"
                )


if __name__ == "__main__":
    main()
