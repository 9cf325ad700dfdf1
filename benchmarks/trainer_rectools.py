"""RecTools's side of `benchmarks.trainer`: its SASRec, run in an environment of its own."""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from benchmarks.memory import peak_mib
from benchmarks.trainer_job import NEGATIVES, Job, read_job, report

EPOCHS: list[float] = []
"""Seconds of each training epoch, without what RecTools and Lightning do before and after."""

TRAIN, VALIDATION = 0, 1  # places in the contract's list of splits


class Timer(Callback):
    """Takes the time of each epoch."""

    def on_train_epoch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        EPOCHS.append(time.perf_counter() - self.started)


def trainer() -> Trainer:
    """Return a Lightning trainer that does nothing but train."""
    return Trainer(
        accelerator="auto", devices=1, max_epochs=1, min_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Timer()],
    )  # fmt: skip


def actions(job: Job) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the real training actions, in order, and the validation targets: user, item."""
    held = np.load(job.actions)
    frame = pd.DataFrame({
        Columns.User: held["user"], Columns.Item: held["item"], Columns.Weight: 1.0,
        Columns.Datetime: pd.Timestamp(0) + pd.to_timedelta(np.arange(len(held["user"])), unit="s"),
    })  # fmt: skip
    return frame[held["split"] == TRAIN], frame[held["split"] == VALIDATION]


def ndcg(model: SASRecModel, dataset: Dataset, targets: pd.DataFrame) -> float:
    """NDCG@10 of the targets among all items that the user has not had; an unknown user or item is a miss."""
    known = targets[targets[Columns.User].isin(dataset.user_id_map.external_ids)]
    users = known[Columns.User].to_numpy()
    top = model.recommend(users=users, dataset=dataset, k=10, filter_viewed=True, on_unsupported_targets="ignore")
    hits = top.merge(targets, on=[Columns.User, Columns.Item])
    return float((1 / np.log2(1 + hits[Columns.Rank])).sum() / len(targets))


def main() -> None:
    """Train and report each epoch."""
    job = read_job()
    torch.set_num_threads(job.threads)
    seed_everything(0, verbose=False)
    train, targets = actions(job)
    dataset = Dataset.construct(train)
    loss = {"bce": ("BCE", 1), "softmax": ("softmax", 1), "sampled": ("sampled_softmax", NEGATIVES)}[job.loss]
    model = SASRecModel(
        n_blocks=job.blocks, n_heads=job.heads, n_factors=job.hidden, dropout_rate=job.dropout,
        session_max_len=job.length, loss=loss[0], n_negatives=loss[1], lr=job.learning_rate,
        batch_size=job.batch_size, epochs=1, get_trainer_func=trainer,
    )  # fmt: skip
    for _ in range(job.epochs):
        model.fit_partial(dataset, 1, 1)
        figure = ndcg(model, dataset, targets) if job.evaluate else None
        report(seconds=EPOCHS[-1], loss=None, figure=figure, peak_mib=round(peak_mib()))


if __name__ == "__main__":
    main()
