"""Train on real data with each generator's items and without, and say what augmentation is worth.

    python -m benchmarks.augmentation --on thinned --copies 0 1 2 3 4
    python -m benchmarks.augmentation --on imbalanced --arms cooccurrence --seeds 0 1
    python -m benchmarks.augmentation --copies 0 --arms vllm --set llm.model=smollm2    # of benchmarks.real_llm

The data is read from $EDT_DATA. `thinned` are copies of food-kitchen in which a --share of the users keep one training
action in one of their domains. A user is averaged over seeds and copies, then users are resampled. Nothing of the test
split is shown without --test: choose settings on validation. An interrupted command goes on where it stood.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from benchmarks.food_kitchen import food_kitchen, write_settings
from benchmarks.other_items import random_items, true_items, write_copy
from benchmarks.runs import about, run_until, runs, train_config
from benchmarks.thin import write_thinned
from data_lake.schemas import TEST, VALIDATION
from flows.settings import Settings, load_settings
from flows.text import log
from model.data.training_set import TrainingSet
from model.evaluation.candidates import find_targets
from model.evaluation.compare import Difference, paired
from model.evaluation.groups import groups

NONE, RANDOM = "none", "random items"
TRUE = {"true items": 1.0, "30 % true": 0.3, "10 % true": 0.1}
ARMS = {
    NONE: ("enrich.generator=none",),
    "retrieval": ("enrich.generator=retrieval",),
    "cooccurrence": ("enrich.generator=cooccurrence",),
    "vllm": ("enrich.generator=vllm",),
    "retrieval, no filter": (
        "enrich.generator=retrieval",
        "enrich.noise_filter=false",
        "train.loss.synthetic_weight=0.3",
    ),
    **dict.fromkeys((RANDOM, *TRUE), ("enrich.generator=cooccurrence",)),
}
"""What each arm sets. `random items` are drawn in the place of those that co-occur; of `true` ones (on thinned copies)
a share of these is replaced by what thinning took from the user. `no filter` inserts every answer."""

SCARCE, EVERY = "scarce-domain", "all"
SHOWN = ("HR@10", "NDCG@10")
WORST = -1.0
"""Percent below the value without augmentation that the lower end of the interval may not pass."""


def data_sets(given: argparse.Namespace) -> Iterator[Path]:
    """Write the settings file of each data set, and the thinned copies where they are not there yet."""
    if given.on != "thinned":
        yield write_settings(given.out / given.on, is_imbalanced=given.on == "imbalanced")
        return
    for copy in given.copies:
        folder = given.out / f"thinned-{given.share}-{copy}"
        write_thinned(food_kitchen(), folder, given.share, copy)
        yield write_settings(folder, data=folder)


def make(arm: str, settings: Settings, data_folder: Path, out: Path) -> Path:
    """Make what is missing of an arm's training set; return its folder."""
    lake = run_until(settings, "assemble")
    folder = lake.path("training_set")
    if manifest := lake.manifest("grounded_items") if arm != NONE else None:
        log(json.dumps({name: manifest.figures[name] for name in ("noise_filter", "kept")}))
    if arm != RANDOM and arm not in TRUE:
        return folder
    copy = out / arm.replace(" ", "-") / folder.name
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = TrainingSet.load(folder)
        items = random_items(data, seed=0) if arm == RANDOM else true_items(data, data_folder, TRUE[arm], seed=0)
        write_copy(folder, data, items, copy)
    return copy


def scarce_users(data: TrainingSet, split: str) -> list[str]:
    """Return the users whose target lies in the domain that they have the fewest training actions in."""
    targets = find_targets(data, split)
    users: list[str] = data.user_ids.take(pa.array(targets.users[groups(data, targets)[SCARCE]])).to_pylist()
    return users


def of_copy(ranks: pa.Table, users: Sequence[str] | None) -> pa.Table:
    """Return the rows of these users; None: of all."""
    return ranks if users is None else pl.DataFrame(ranks).filter(pl.col("user_id").is_in(list(users))).to_arrow()


def percent(it: Difference) -> str:
    """Say by how many percent of the value without augmentation the other differs, and whether that is never worse."""
    low, mean, high = (100 * each / it.b for each in (it.low, it.difference, it.high))
    verdict = "better" if low > 0 else "not worse" if low > WORST else "worse" if high < 0 else "undecided"
    return f"{mean:+6.1f} % [{low:+5.1f}, {high:+5.1f}]  {verdict:<9}  ({it.users:,} users)"


def over_runs(a: Sequence[pa.Table], b: Sequence[pa.Table], metric: str, split: str, protocol: str, phase: str) -> str:
    """Say how far several pairs of runs lie apart: their mean difference and its standard error.

    The interval over users holds for these trainings; other seeds move all users together.
    """
    found = [
        paired([one], [other], split=split, protocol=protocol, phases=(phase, phase), resamples=1)[metric]
        for one, other in zip(a, b, strict=True)
    ]
    if len(found) == 1:
        return ""
    each = [100 * it.difference / it.b for it in found]
    return f"; {len(each)} runs {statistics.mean(each):+.1f} ± {statistics.stdev(each) / len(each) ** 0.5:.1f}"


def main() -> None:
    """Make what is missing, then print a line per arm, group, protocol and metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", choices=["thinned", "imbalanced", "food-kitchen"], default="thinned")
    parser.add_argument("--copies", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="SEED", help="thinned ones")
    parser.add_argument("--share", type=float, default=0.95, help="of the users that are thinned")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=["retrieval", "cooccurrence"], metavar="NAME")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every arm")
    parser.add_argument("--phase", choices=["pretrain", "finetune"], default="finetune")
    parser.add_argument("--test", action="store_true", help="show the test split instead of validation")
    parser.add_argument("--out", type=Path, default=Path("augmentation"))
    given = parser.parse_args()

    split = TEST if given.test else VALIDATION
    arms = dict.fromkeys([NONE, *given.arms])
    ranks: dict[tuple[str, str], list[pa.Table]] = {(arm, group): [] for arm in arms for group in (SCARCE, EVERY)}
    for config in data_sets(given):
        for arm in arms:
            settings = load_settings(config, [*ARMS[arm], *given.set])
            folder = make(arm, settings, config.parent, given.out)
            data = TrainingSet.load(folder)
            log(f"{config.stem}, {arm}: {about(data)}")
            scarce = scarce_users(data, split)
            for run in runs(folder, data.digest, train_config(settings), given.seeds, given.out):
                ranks[arm, SCARCE].append(of_copy(run.ranks, scarce))
                ranks[arm, EVERY].append(run.ranks)

    print(f"{given.on}, {split}, {given.phase}, {len(given.seeds)} training seeds {' '.join(given.set)}")
    for arm in given.arms:
        for group in (SCARCE, EVERY):
            for protocol in ("sampled-999", "full"):
                phases = (given.phase, given.phase)
                found = paired(ranks[arm, group], ranks[NONE, group], split=split, protocol=protocol, phases=phases)
                for it in (found[metric] for metric in SHOWN):
                    spread = over_runs(ranks[arm, group], ranks[NONE, group], it.metric, split, protocol, given.phase)
                    what = f"{arm:<22} {group:<14} {protocol:<12} {it.metric:<8} {it.b:.4f} to {it.a:.4f}"
                    print(f"{what} {percent(it)}{spread}")


if __name__ == "__main__":
    main()
