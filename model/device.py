"""What a network is computed on: the device, and threads of the CPU."""

import os

import torch

from data_lake.errors import UserError


def choose_device(setting: str) -> torch.device:
    """Return the device of a setting: "cpu", "cuda", or "auto", which takes a GPU where there is one.

    Raises UserError for "cuda" without a GPU.
    """
    if setting == "cuda" and not torch.cuda.is_available():
        raise UserError("device is 'cuda' but torch sees no GPU. Set device = \"auto\".")
    return torch.device("cuda" if setting != "cpu" and torch.cuda.is_available() else "cpu")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(count: int) -> None:
    """Compute with `count` CPU threads; 0: with an equal part of the cores for each process of the training here."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if count or processes > 1:
        torch.set_num_threads(count or max(1, cores() // processes))
