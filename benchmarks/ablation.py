"""Train the whole method and the method without each of its parts; compare them, paired over users and seeds.

    python -m benchmarks.ablation                                  # the sample world as `edt sample` sets it up
    python -m benchmarks.ablation --users 500 --epochs 3 --seeds 2
    python -m benchmarks.ablation --config edt.toml                # a dataset of one's own, with its generator
    python -m benchmarks.ablation --list                           # what each variant sets; nothing is trained

`edt sample` takes edt-tiny where vLLM is installed, else `cooccurrence`. A variant that the settings make impossible,
or that they are already, is left out. A difference is that of the variant to the whole method: it is negative where the
part helps. Its interval resamples users, each averaged over the seeds first. An interrupted command goes on where it
stood.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.runs import about, runs, train_config, training_set
from benchmarks.sample_world import world_file
from data_lake.errors import UserError
from data_lake.schemas import TEST
from flows.settings import Settings, load_settings
from flows.text import log
from model.data.training_set import TrainingSet
from model.evaluation.candidates import find_targets
from model.evaluation.compare import paired
from model.evaluation.groups import groups
from pipeline.sample_world.simulate import SimulateConfig

NO_ALIGN = ("train.pretrain.align_weight=0", "train.finetune.align_weight=0")
VARIANTS = {
    "without augmentation": ("enrich.budget=0",),
    "without noise filter": ("enrich.noise_filter=false",),
    "without profiles": NO_ALIGN,
    "without any enrichment": ("enrich.generator=none",),
    "gate for LLM merge": ("train.aggregate=gate",),
    "without domain heads": ("train.network.domain_heads=false",),
    "without id vectors": ("train.network.item_id=false",),
    "id vectors from random": ("train.network.id_init=random",),
    "without text vectors": ("train.network.item_text=false",),
    "without recency popularity": ("train.network.recency_half_lives=[]",),
    "all targets count alike": ("train.loss.half_after_actions=0", "train.loss.half_after_days=0"),
}
"""What each variant sets. Without augmentation nothing is asked or inserted, and profiles tell of real items only."""

WITHOUT_PHASE_2 = "without phase 2"
"""The whole method's own runs, as phase 1 left them."""

GROUPS = ("all", "scarce-domain")
SHOWN = ("HR@10", "NDCG@10")


def main() -> None:
    """Make what is missing, then print a line per variant, group and metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="settings of a dataset (default: the sample world)")
    parser.add_argument("--users", type=int, default=2000, help="of the sample world")
    parser.add_argument("--items", type=int, default=1200, help="of the sample world, per domain")
    parser.add_argument("--epochs", type=int, help="of each phase at most (default: as the settings say)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--protocol", default="full", choices=["full", "sampled-100", "sampled-999"])
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS, WITHOUT_PHASE_2], metavar="NAME")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as train.preset=release")
    parser.add_argument("--list", action="store_true", help="show what would be compared, and stop")
    parser.add_argument("--out", type=Path, default=Path("ablation"))
    given = parser.parse_args()
    unknown = set(given.variants) - {*VARIANTS, WITHOUT_PHASE_2}
    if unknown:
        known = ", ".join([*VARIANTS, WITHOUT_PHASE_2])
        parser.error(f"unknown variant {min(unknown)!r}; the variants are {known}")

    config = given.config or world_file(given.out, SimulateConfig(users=given.users, items=given.items))
    epochs = [f"train.{phase}.epochs={given.epochs}" for phase in ("pretrain", "finetune") if given.epochs]
    common = [*given.set, *epochs, f"lake.root={(given.out / 'store').resolve()}", "lake.keep=20"]
    whole_settings = load_settings(config, common)
    variants = possible_variants(given.variants, config, common)
    if given.list:
        print(f"{config}: generator {whole_settings.enrich.generator}")
        for name in variants:
            print(f"{name:<24} {' '.join(VARIANTS.get(name, ()))}".rstrip())
        return

    data, whole = ranks(whole_settings, given.seeds, given.out)
    targets = find_targets(data, TEST)
    ids = np.array(data.user_ids.take(pa.array(targets.users)).to_pylist())
    members = {name: ids[is_in] for name, is_in in groups(data, targets).items() if name in GROUPS}
    print(f"{config}\n{about(data)}")
    print(f"test, {given.protocol}, mean of {given.seeds} seeds {' '.join([*given.set, *epochs])}")
    print(f"{'':<24} {'targets':<14} {'metric':<8} {'whole':>7} {'variant':>8} {'difference':>11}  95 % interval")
    for name, settings in variants.items():
        phase = "pretrain" if name == WITHOUT_PHASE_2 else "finetune"
        variant = whole if name == WITHOUT_PHASE_2 else ranks(settings, given.seeds, given.out)[1]
        for group, users in members.items():
            if not len(users):
                continue
            found = paired(variant, whole, protocol=given.protocol, phases=(phase, "finetune"), users=users.tolist())
            for metric in SHOWN:
                it = found[metric]
                print(
                    f"{name:<24} {group:<14} {metric:<8} {it.b:>7.4f} {it.a:>8.4f} {it.difference:>+11.4f}  "
                    f"[{it.low:+.4f}, {it.high:+.4f}]  p = {it.p:.3f}  ({it.users:,} users)",
                    flush=True,
                )


def possible_variants(names: Sequence[str], config: Path, common: Sequence[str]) -> dict[str, Settings]:
    """Return the settings of each variant, without those that are impossible or change nothing; say which these are."""
    whole, variants = load_settings(config, common), dict[str, Settings]()
    for name in names:
        try:
            settings = load_settings(config, [*common, *VARIANTS.get(name, ())])
        except UserError as error:
            log(f"{name} is left out: {error}")
            continue
        if name != WITHOUT_PHASE_2 and settings == whole:
            log(f"{name} is left out: the settings are so already")
            continue
        variants[name] = settings
    return variants


def ranks(settings: Settings, seeds: int, out: Path) -> tuple[TrainingSet, list[pa.Table]]:
    """Make what is missing; return the training set, and the ranks of the runs with each seed."""
    folder = training_set(settings)
    data = TrainingSet.load(folder)
    made = runs(folder, data.digest, train_config(settings), range(seeds), out)
    return data, [run.ranks for run in made]


if __name__ == "__main__":
    main()
