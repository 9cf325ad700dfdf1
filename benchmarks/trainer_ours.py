"""Our trainer's side of `benchmarks.trainer`: phase 1 over one domain, as a plain SASRec or with the default preset."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.memory import peak_mib
from benchmarks.trainer_job import NEGATIVES, Job, read_job, report
from model import parallel
from model.config import TrainConfig
from model.data.training_set import TrainingSet
from model.training.train import prepare


def config(job: Job) -> TrainConfig:
    """Return the settings that make phase 1 a SASRec of the job's size, or those of the default preset."""
    common: dict[str, Any] = {"threads": job.threads, "select_metric": "NDCG@10", "select_users": 10**9}
    if not job.plain:
        return TrainConfig.model_validate(common | {"pretrain": {"epochs": job.epochs}})
    losses: dict[str, dict[str, Any]] = {
        "bce": {"next_item": "bce"},
        "softmax": {"negatives": 0},
        "sampled": {"negatives": NEGATIVES},
    }
    return TrainConfig.model_validate({
        "network": {
            "hidden": job.hidden, "blocks": job.blocks, "heads": job.heads, "feedforward": job.hidden,
            "dropout": job.dropout, "input_dropout": job.dropout, "item_dropout": 0.0, "max_length": job.length,
            "item_text": False, "id_init": "random", "mark_synthetic": False, "score": "dot", "temperature": 1.0,
            "recency_half_lives": (), "domain_heads": False,
        },
        "loss": losses[job.loss] | {"half_after_actions": 0.0, "half_after_days": 0.0},
        "pretrain": {
            "epochs": job.epochs, "batch_size": job.batch_size, "learning_rate": job.learning_rate, "clip": 0.0,
            "lr_patience": 0, "align_weight": 0.0,
        },
    } | common)  # fmt: skip


def one_domain(data: TrainingSet, texts: bool) -> TrainingSet:
    """Return the same actions with all items in one domain, without profiles, and with the items' texts or not."""
    domain = np.where(data.item_domain >= 0, 0, -1).astype(np.int16)
    vectors = data.item_vectors if texts else np.zeros((data.n_items + 1, 0), np.float32)
    return dataclasses.replace(data, domains=("all",), item_domain=domain, item_vectors=vectors, profiles={})


def main() -> None:
    """Train and report each epoch."""
    job = read_job()
    data = one_domain(TrainingSet.load(job.data), texts=not job.plain)
    with tempfile.TemporaryDirectory() as folder:
        loop = prepare(data, config(job), "pretrain", Path(folder), Path(folder))
        steps = 0
        for number in range(1, job.epochs + 1):
            started = time.perf_counter()
            progress, _ = loop.epoch(number, steps, [])
            steps, seconds = progress.steps, time.perf_counter() - started
            figure = loop.validate()["all"] if job.evaluate else None
            peak = round(float(parallel.all_reduce_sum(torch.tensor(peak_mib()))))
            if parallel.rank() == 0:
                report(seconds=seconds, loss=progress.parts["next_item"], figure=figure, peak_mib=peak)


if __name__ == "__main__":
    main()
