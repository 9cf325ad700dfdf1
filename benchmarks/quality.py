"""Train over several seeds and show the test figures of every protocol beside the published ones of ABXI.

    python -m benchmarks.quality                      # food-kitchen ($EDT_DATA) without enrichment, in quality/
    python -m benchmarks.quality --preset release
    python -m benchmarks.quality --ties shuffle       # actions of one time in a random order
    python -m benchmarks.quality --together           # and how the scores of all seeds, added up, rank
    python -m benchmarks.quality --data DIR           # the folder of a training set, such as `edt path training_set`

An interrupted command goes on where it stood. `--set train.pretrain.epochs=3` and the like change any setting.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from benchmarks.food_kitchen import write_settings
from benchmarks.runs import Run, about, runs, train_config, training_set
from data_lake.schemas import TEST
from flows.settings import load_settings
from model.config import RELEASES, EvaluateConfig
from model.data.training_set import Ints, TrainingSet
from model.evaluation.candidates import blocks, find_targets
from model.evaluation.compare import over_seeds
from model.evaluation.metrics import METRIC_NAMES, compute_metrics
from model.evaluation.ranking import rank_targets
from model.evaluation.scoring import Scorer, load_scorer

SHOWN = ("HR@5", "HR@10", "NDCG@10", "MRR")
GROUPS = ("all", "not same-time")
"""All targets, and those that do not share their time with the action before, whose order is no artefact."""

ABXI_PROTOCOL = "sampled-999"
ABXI = {
    "food": {"HR@5": 0.2519, "HR@10": 0.3243, "NDCG@10": 0.1971, "MRR": 0.1655},
    "kitchen": {"HR@5": 0.1745, "HR@10": 0.2438, "NDCG@10": 0.1427, "MRR": 0.1219},
}
"""ABXI (WWW 2025) on food-kitchen: test, all targets, mean of 5 seeds, its authors' refactored code."""

TRAINING_SET_GIVEN = 'dataset = "given"\n[data]\ninteractions = "-"\nitems = "-"\n'
"""Settings for a training set that is there already: only those of the trainer are read."""


def table(metrics: list[pa.Table], with_published: bool) -> Iterator[str]:
    """Yield the lines of the table: a block per phase and group; rows per protocol and domain; mean, std, ratio."""
    rows = {
        (row["phase"], row["group"], row["protocol"], row["domain"], row["metric"]): row
        for row in over_seeds(metrics).to_pylist()
        if row["split"] == "test" and row["domain"] is not None
    }
    users = {
        (row["phase"], row["group"], row["protocol"], row["domain"]): row["users"]
        for row in metrics[0].to_pylist()
        if row["split"] == "test"
    }
    keys = dict.fromkeys(key[:4] for key in rows if key[1] in GROUPS)
    for phase in dict.fromkeys(key[0] for key in keys):
        for group in GROUPS:
            here = [key for key in keys if key[:2] == (phase, group)]
            if group != GROUPS[0] and all(users[key] == users[phase, GROUPS[0], *key[2:]] for key in here):
                continue
            yield f"\nafter {phase}, targets: {group}"
            yield f"{'':<38}" + "".join(f"{metric:>24}" for metric in SHOWN)
            for key in here:
                _, _, protocol, domain = key
                published = _published(protocol, domain) if with_published and group == "all" else {}
                figures = {metric: (rows[*key, metric]["mean"], rows[*key, metric]["std"]) for metric in SHOWN}
                yield _line(domain, protocol, users[key], figures, published)
                if published:
                    yield f"{'':<14} {'ABXI':<12} {'':>9}  " + "".join(
                        f"{published[metric]:>12.4f}{'':12}" for metric in SHOWN
                    )


def together(runs: Sequence[Run], data: TrainingSet, with_published: bool) -> Iterator[str]:
    """Yield the lines of a table in which the networks rank the test targets by the sum of their scores."""
    scorer = summed([load_scorer(run.folder / "checkpoint", data) for run in runs])
    cfg, targets = EvaluateConfig(), find_targets(data, TEST)
    made = blocks(data, targets, cfg.protocols, cfg.batch_size)
    ranked = rank_targets(data, targets, made, {"": scorer}, cfg.protocols)
    yield f"\nafter finetune, targets: all, scores of {len(runs)} seeds added up"
    for protocol in cfg.protocols:
        for number, domain in enumerate(data.domains):
            mine = targets.domains == number
            means = dict(zip(METRIC_NAMES, compute_metrics(ranked["", protocol].ranks[mine]).mean(axis=0), strict=True))
            published = _published(protocol, domain) if with_published else {}
            yield _line(domain, protocol, mine.sum(), {metric: (means[metric], None) for metric in SHOWN}, published)


def summed(scorers: Sequence[Scorer]) -> Scorer:
    """Return a scorer that adds up the scores of several; it ranks as the product of their probabilities does."""

    def score(users: Ints, prefix_lengths: Ints, domain: str) -> Tensor:
        first, *others = (each(users, prefix_lengths, domain) for each in scorers)
        return sum(others, start=first)

    return score


def _published(protocol: str, domain: str) -> dict[str, float]:
    return ABXI.get(domain, {}) if protocol == ABXI_PROTOCOL else {}


def _line(
    domain: str, protocol: str, users: int, figures: dict[str, tuple[float, float | None]], published: dict[str, float]
) -> str:
    """Return a line of `figures`, mean and standard deviation by metric, each with its ratio to what is published."""
    line = f"{domain:<14} {protocol:<12} {users:>9,}  "
    for metric, (mean, std) in figures.items():
        spread = "" if std is None else f"±{std:.4f}"
        ratio = f"x{mean / published[metric]:.2f}" if published else ""
        line += f"{mean:>10.4f} {spread:<7} {ratio:<5}"
    return line


def main() -> None:
    """Make what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of a training set (default: food-kitchen, without a model)")
    parser.add_argument("--ties", default="position", choices=["position", "shuffle"], help="of food-kitchen")
    parser.add_argument("--preset", default="default", choices=["default", *RELEASES])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--together", action="store_true", help="rank by the scores of all seeds added up, too")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as train.seed=7")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    given = parser.parse_args()

    if given.data:
        given.out.mkdir(parents=True, exist_ok=True)
        file = given.out / "given.toml"
        file.write_text(TRAINING_SET_GIVEN, encoding="utf-8")
    else:
        file = write_settings(given.out)
    settings = load_settings(file, [f"data.ties={given.ties}", f"train.preset={given.preset}", *given.set])
    folder = given.data or training_set(settings)
    data = TrainingSet.load(folder)
    made = runs(folder, data.digest, train_config(settings), range(given.seeds), given.out)
    what = folder if given.data else f"food-kitchen, ties by {given.ties}, no enrichment"
    print(f"{what}\n{about(data)}")
    print(f"test, preset {given.preset} {' '.join(given.set)}, mean ± standard deviation of {given.seeds} seeds")
    with_published = not given.data and set(ABXI) <= set(data.domains)
    for line in table([run.metrics for run in made], with_published):
        print(line)
    for line in together(made, data, with_published) if given.together else ():
        print(line)


if __name__ == "__main__":
    main()
