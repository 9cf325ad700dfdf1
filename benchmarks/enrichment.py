"""Train on sample worlds with each kind of enrichment, and compare each with none: what the language model is worth.

    python -m benchmarks.enrichment --worlds 0 1 2 3 4
    python -m benchmarks.enrichment --worlds 0 --users 300 --items 300 --seeds 1 --set train.pretrain.epochs=3
    python -m benchmarks.enrichment --worlds 0 --arms retrieval

Test targets of imbalanced users in their scarce domain. A user is averaged over the training seeds, then the users of
all worlds are resampled. edt-tiny knows the simulator's law: this shows that good answers arrive, not that a given
language model gives them. "random items" is the whole method with another item of the domain in each inserted one's
place. All arms train with the settings that `edt sample` writes. An interrupted command goes on where it stood.
"""

import argparse
from pathlib import Path

import polars as pl
import pyarrow as pa

from benchmarks.other_items import random_items, write_copy
from benchmarks.runs import about, runs, train_config, training_set
from benchmarks.sample_world import GENERATORS, world_settings
from data_lake.schemas import TEST
from flows.settings import Settings
from flows.text import log
from model.data.training_set import TrainingSet
from model.evaluation.candidates import find_targets
from model.evaluation.compare import paired
from model.evaluation.groups import groups
from pipeline.sample_world.simulate import SimulateConfig

NONE, RETRIEVAL, RANDOM = "no enrichment", "retrieval", "random items"
NO_FILTER, WHOLE = "edt-tiny, no filter", "edt-tiny, whole method"
OVERRIDES = {
    NONE: ("enrich.generator=none",),
    RETRIEVAL: GENERATORS["retrieval"],
    RANDOM: GENERATORS["edt-tiny"],
    NO_FILTER: (*GENERATORS["edt-tiny"], "enrich.noise_filter=false"),
    WHOLE: GENERATORS["edt-tiny"],
}
"""What each arm sets, in the order of the table."""

GROUP = "imbalance>=0.9 and scarce-domain"
SHOWN = ("HR@10", "NDCG@10")


def make_arm(arm: str, settings: Settings, world: int, out: Path) -> Path:
    """Make what is missing of an arm's training set; return its folder."""
    folder = training_set(settings)
    if arm != RANDOM:
        return folder
    copy = out / "random-items" / folder.name
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = TrainingSet.load(folder)
        write_copy(folder, data, random_items(data, seed=world), copy)
    return copy


def group_users(data: TrainingSet) -> list[str]:
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
    parser.add_argument("--arms", nargs="+", choices=list(OVERRIDES), default=list(OVERRIDES), metavar="NAME")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as train.preset=release")
    parser.add_argument("--out", type=Path, default=Path("sample-worlds"))
    given = parser.parse_args()

    arms = [arm for arm in OVERRIDES if arm == NONE or arm in given.arms]
    ranks: dict[str, list[pa.Table]] = {arm: [] for arm in arms}
    for world in given.worlds:
        cfg = SimulateConfig(users=given.users, items=given.items, seed=world)
        users: list[str] = []
        for arm in arms:
            settings = world_settings(given.out, cfg, ["lake.keep=20", *OVERRIDES[arm], *given.set])
            folder = make_arm(arm, settings, world, given.out)
            data = TrainingSet.load(folder)
            if arm == NONE:
                users = group_users(data)
            log(f"world {world}, {arm}: {about(data)}")
            made = runs(folder, data.digest, train_config(settings), range(given.seeds), given.out)
            ranks[arm] += [in_world(run.ranks, users, world) for run in made]

    print(f"worlds {given.worlds}, {given.users:,} users, {given.items:,} items a domain, {given.seeds} training seeds")
    print(f"test, full ranking, {GROUP} {' '.join(given.set)}")
    print(f"{'':<24} {'phase':<9} {'metric':<8} {'value':>7} {'to none':>9}  95 % interval")
    for arm in arms:
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
