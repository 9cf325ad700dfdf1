"""Seconds of phase 2 over a trained phase 1, by the clock and of CPU time, and what it brings on validation.

    python -m benchmarks.phase_two --data DIR --pretrained RUN/pretrained

DIR is the folder of the training set that phase 1 was trained on; its settings are taken over, those of phase 2 are the
defaults. Beside other programs only the CPU time tells two versions apart.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.runs import about
from model.checkpoint import PhaseCheckpoint
from model.config import TrainConfig
from model.data.training_set import TrainingSet
from model.training.train import prepare


def main() -> None:
    """Run phase 2 in a temporary folder and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a training set")
    parser.add_argument("--pretrained", type=Path, required=True, help="folder of phase 1 of a run on it")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    given = parser.parse_args()
    data = TrainingSet.load(given.data)
    before = PhaseCheckpoint(given.pretrained)
    cfg = TrainConfig.model_validate(before.config()["train"] | {"threads": given.threads})
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepare(data, cfg, "finetune", Path(folder), given.pretrained)
        clock, cpu = time.monotonic(), time.process_time()
        trainer.run()
        clock, cpu = time.monotonic() - clock, time.process_time() - cpu
        history = trainer.checkpoint.history()
    best = next(row for row in reversed(history) if row["best"])
    first = next(row for row in reversed(before.history()) if row["best"])
    name = f"{best['protocol']} {best['metric']}"
    print(about(data))
    print(f"phase 2, {len(history)} epochs: {clock:.1f} s, {cpu:.1f} s of CPU time")
    print(f"validation {name}: {first['value']:.4f} after phase 1, {best['value']:.4f} after phase 2")


if __name__ == "__main__":
    main()
