"""Train over several seeds and show the test figures of every protocol beside the published ones of ABXI.

    python -m benchmarks.quality                      # food-kitchen without enrichment, made in quality/
    python -m benchmarks.quality --preset paper
    python -m benchmarks.quality --ties shuffle       # actions of one time in a random order
    python -m benchmarks.quality --data DIR           # the folder of a training set, such as `edt path training_set`

An interrupted command goes on where it stood. `--set train.pretrain.epochs=3` and the like change any setting.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from benchmarks.runs import FOOD_KITCHEN, about, runs, train_config, training_set
from flows.settings import load_settings
from model.compare import over_seeds
from model.data import TrainingSet

SHOWN = ("HR@5", "HR@10", "NDCG@10", "MRR")
GROUPS = ("all", "not same-time")
"""All targets, and those that do not share their time with the action before, whose order is no artefact."""

ABXI_PROTOCOL = "sampled-999"
ABXI = {
    "food": {"HR@5": 0.2519, "HR@10": 0.3243, "NDCG@10": 0.1971, "MRR": 0.1655},
    "kitchen": {"HR@5": 0.1745, "HR@10": 0.2438, "NDCG@10": 0.1427, "MRR": 0.1219},
}
"""ABXI (WWW 2025) on food-kitchen: test, all targets, mean of 5 seeds, its authors' refactored code."""


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
                published = ABXI.get(domain, {}) if with_published and protocol == ABXI_PROTOCOL else {}
                published = published if group == "all" else {}
                cells = [_cell(rows[*key, metric], published.get(metric)) for metric in SHOWN]
                yield f"{domain:<14} {protocol:<12} {users[key]:>9,}  " + "".join(cells)
                if published:
                    yield f"{'':<14} {'ABXI':<12} {'':>9}  " + "".join(
                        f"{published[metric]:>12.4f}{'':12}" for metric in SHOWN
                    )


def _cell(row: dict[str, float], published: float | None) -> str:
    spread = "" if row["std"] is None else f"±{row['std']:.4f}"
    ratio = "" if published is None else f"x{row['mean'] / published:.2f}"
    return f"{row['mean']:>10.4f} {spread:<7} {ratio:<5}"


def main() -> None:
    """Make what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of a training set (default: food-kitchen, without a model)")
    parser.add_argument("--ties", default="position", choices=["position", "shuffle"], help="of food-kitchen")
    parser.add_argument("--preset", default="default", choices=["default", "paper"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as train.seed=7")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    given = parser.parse_args()

    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "food-kitchen.toml"
    file.write_text(FOOD_KITCHEN, encoding="utf-8")
    settings = load_settings(file, [f"data.ties={given.ties}", f"train.preset={given.preset}", *given.set])
    folder = given.data or training_set(settings)
    data = TrainingSet.load(folder)
    made = runs(folder, data.digest, train_config(settings), range(given.seeds), given.out)
    what = folder if given.data else f"food-kitchen, ties by {given.ties}, no enrichment"
    print(f"{what}\n{about(data)}")
    print(f"test, preset {given.preset} {' '.join(given.set)}, mean ± standard deviation of {given.seeds} seeds")
    for line in table([run.metrics for run in made], with_published=not given.data and set(ABXI) <= set(data.domains)):
        print(line)


if __name__ == "__main__":
    main()
