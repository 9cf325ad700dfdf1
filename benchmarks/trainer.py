"""Seconds per epoch and peak memory of our trainer beside RecTools 0.19's SASRec, at the same data, size and loss.

    python -m benchmarks.trainer --data DIR                        # DIR: a training set
    python -m benchmarks.trainer --data DIR --to-best --epochs 30  # also the time each needs to its own best figure

Both train a plain SASRec: one catalogue, id vectors only, same width, depth, length, batch, dropout and rate, one after
the other on the same machine. RecTools gets an environment of its own in OUT/rectools. With "sampled" RecTools draws
1,024 negatives per position, we 1,024 per batch. The first epoch is warm-up. Memory is the peak of the process. To the
best figure our default preset runs, too, with one catalogue and all that it knows of items' texts and actions' times.
With `--processes N` ours also runs as N processes, which share the threads and whose memory is added up.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.runs import about
from benchmarks.trainer_job import Job
from flows.trainer import ranks
from model.data.training_set import TrainingSet
from model.device import cores

RECTOOLS = "rectools[torch]==0.19.*"
HERE = Path(__file__).parent


def environment(folder: Path) -> Path:
    """Return the Python of an environment with RecTools and our version of torch, made where it is missing."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"installing {RECTOOLS} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, f"torch=={torch.__version__}"], stderr=subprocess.DEVNULL).returncode:
            subprocess.run([*pip, f"torch=={torch.__version__.partition('+')[0]}"], check=True)
        subprocess.run([*pip, RECTOOLS], check=True)
        (folder / "installed").touch()
    return python


def save_actions(data: TrainingSet, path: Path) -> None:
    """Write the real actions, user by user and in order, as arrays that any version of numpy reads."""
    real = ~data.synthetic
    user = np.repeat(np.arange(data.n_users), data.lengths)
    np.savez(path, user=user[real], item=data.items[real], split=data.splits[real])


def measure(python: Path, script: str, job: Job, processes: int = 1) -> list[dict[str, Any]]:
    """Run one side in a process of its own, or several; return what it reported per epoch."""
    job = replace(job, threads=job.threads // processes)
    env = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(job.threads), "PYTHONPATH": str(HERE.parent)}
    command = [str(python), *ranks(processes), str(HERE / script), json.dumps(asdict(job))]
    child = subprocess.Popen(command, env=os.environ | env, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    epochs = []
    for line in child.stdout:
        if line.startswith("{"):
            epochs.append(json.loads(line))
            print(f"{script} {job.loss} epoch {len(epochs)}: {epochs[-1]}", file=sys.stderr)
    if child.wait():
        raise SystemExit(f"{script} ended with code {child.returncode}; its last words are above.")
    return epochs


def per_epoch(epochs: list[dict[str, Any]]) -> float:
    """Return the mean seconds of an epoch after the first."""
    timed = epochs[1:] or epochs
    return float(np.mean([epoch["seconds"] for epoch in timed]))


def best(epochs: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the best figure and the training seconds until it."""
    place = max(range(len(epochs)), key=lambda at: epochs[at]["figure"])
    return epochs[place]["figure"], sum(epoch["seconds"] for epoch in epochs[: place + 1])


def until(epochs: list[dict[str, Any]], figure: float) -> str:
    """Say how many training seconds it took to reach a figure."""
    passed = 0.0
    for epoch in epochs:
        passed += epoch["seconds"]
        if epoch["figure"] >= figure:
            return f"{passed:.1f} s"
    return "not reached"


def main() -> None:
    """Run both trainers for each loss and print a line about each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a training set")
    parser.add_argument("--losses", nargs="+", default=["bce", "softmax"], choices=["bce", "softmax", "sampled"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--to-best", action="store_true", help="measure validation NDCG@10 (all items) after each epoch"
    )
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--processes", type=int, default=1, help="run ours as so many processes, too")
    parser.add_argument("--out", type=Path, default=Path("trainer"), help="where RecTools's environment lies")
    given = parser.parse_args()
    rectools = environment((given.out / "rectools").resolve())
    data = TrainingSet.load(given.data)
    save_actions(data, given.out / "actions.npz")
    print(f"{given.data}\n{about(data)}, {given.threads} threads")
    more = "  best full NDCG@10 on validation, training time until it" if given.to_best else ""
    print(f"{'loss':<8} {'':<9} {'s/epoch':>9} {'peak MiB':>8}{more}")
    job = Job(
        data=str(given.data.resolve()), actions=str((given.out / "actions.npz").resolve()),
        loss="", hidden=given.hidden, blocks=2, heads=2, length=50,
        batch_size=given.batch, dropout=0.2, learning_rate=1e-3, epochs=given.epochs, threads=given.threads,
        evaluate=given.to_best,
    )  # fmt: skip
    preset: list[dict[str, Any]] = []
    if given.to_best:
        preset = measure(Path(sys.executable), "trainer_ours.py", replace(job, loss="preset", plain=False))
        print(_line("preset", "ours", preset) + "  {:.4f} in {:.1f} s".format(*best(preset)))
    for loss in given.losses:
        plain = replace(job, loss=loss)
        sides = {
            ours(number): measure(Path(sys.executable), "trainer_ours.py", plain, number)
            for number in sorted({1, given.processes})
        }
        theirs = sides["RecTools"] = measure(rectools, "trainer_rectools.py", plain)
        for name, epochs in sides.items():
            ratio = per_epoch(theirs) / per_epoch(epochs)
            print(
                _line(loss, name, epochs)
                + ("  {:.4f} in {:.1f} s".format(*best(epochs)) if given.to_best else "")
                + (f"  RecTools takes {ratio:.1f} times as long per epoch" if epochs is not theirs else "")
            )
        if given.to_best:
            figure, passed = best(theirs)
            print(
                f"{loss:<8} to RecTools's best: it {passed:.1f} s, we {until(sides[ours(1)], figure)}, "
                f"with our default preset {until(preset, figure)}"
            )


def ours(processes: int) -> str:
    """Name our side."""
    return "ours" if processes == 1 else f"ours x{processes}"


def _line(loss: str, name: str, epochs: list[dict[str, Any]]) -> str:
    return f"{loss:<8} {name:<9} {per_epoch(epochs):>9.2f} {epochs[-1]['peak_mib']:>8,}"


if __name__ == "__main__":
    main()
