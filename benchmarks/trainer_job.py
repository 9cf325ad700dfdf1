"""One job of `benchmarks.trainer`, read alike by both trainers. Needs nothing but the standard library."""

import json
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """What to train on, and how."""

    data: str
    """Folder of a training set."""
    actions: str
    """Its real actions as numpy arrays: user, item, split."""
    loss: str
    """"bce" with one negative per position, "softmax" over all items, or "sampled": 1,024 uniform negatives."""
    hidden: int
    blocks: int
    heads: int
    length: int
    batch_size: int
    dropout: float
    learning_rate: float
    epochs: int
    threads: int
    """Of each process."""
    evaluate: bool
    """Whether each epoch is measured: NDCG@10 of the validation targets among all items that the user has not had."""
    plain: bool = True
    """A plain SASRec of this size and loss; else, ours only, the default preset with its own size, loss and rate."""


NEGATIVES = 1024


def read_job() -> Job:
    """Return the job that the command line gives as JSON."""
    return Job(**json.loads(sys.argv[1]))


def report(**figures: Any) -> None:
    """Print one line that `benchmarks.trainer` reads."""
    print(json.dumps(figures), flush=True)
