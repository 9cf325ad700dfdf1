"""A phase that goes on where an earlier one stopped, whose training set knew other users and items.

What belongs to no item is kept as it is, with its mean over epochs and its optimiser's moments. An id vector is kept,
found by the item's id, where the earlier phase trained on the item. Any other item starts as in a training from
scratch, seen from the earlier phase: the factorisation of co-occurrence has no directions of its own, so tonight's
vectors are turned onto the learnt ones of the items that are kept (orthogonal Procrustes: Schönemann, 1966).

Letters used in this file: N items, K kept items, D hidden size.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_lake.errors import UserError
from data_lake.manifest import hash_file
from model import parallel
from model.checkpoint import (
    LAZY_ADAMW,
    MODEL,
    STATE,
    PhaseCheckpoint,
    check_weights,
    difference,
    load_moments,
    load_tensors,
    read_progress,
)
from model.data.training_set import TrainingSet
from model.evaluation.compare_checkpoints import earlier_numbers
from model.lazy_adamw import LazyAdamW
from model.network.network import Network
from model.weight_average import WeightAverage

SHARE = 0.1
"""Of the epochs of a training from scratch."""

IDS = "item_vectors.ids.weight"


def warm_epochs(epochs: int) -> int:
    """Return how many epochs a phase has that starts warm, where it has `epochs` from scratch."""
    return math.ceil(epochs * SHARE)


class WarmStart:
    """What an earlier training of a phase left, and what of it is kept."""

    def __init__(self, folder: Path, earlier: TrainingSet, data: TrainingSet) -> None:
        """folder: of the phase. earlier: the training set that it was trained on. data: that of the new training.

        Raises UserError where the folder lacks weights or train state.
        """
        for name in (MODEL, STATE):
            if not (folder / name).is_file():
                raise UserError(f"The earlier {folder.name} holds no {name}; train without --before.")
        self.folder, self.items = folder, earlier.n_items
        self.digest = hash_file(folder / MODEL)
        self.progress = read_progress(folder / STATE)
        numbers = earlier_numbers(data, earlier)
        is_kept = earlier.train_actions[numbers] > 0
        self.kept = torch.from_numpy(np.flatnonzero(is_kept))  # (K,)
        self.kept_from = torch.from_numpy(numbers[is_kept])  # (K,) their earlier numbers

    def check(self, config: Mapping[str, Any], pretrained: Path) -> None:
        """Refuse a training of other settings, or of a phase 2 over a phase 1 that did not start from the earlier one.

        config: of the new training's folder. pretrained: the folder of its phase 1. Raises UserError.
        """
        held, wanted = PhaseCheckpoint(self.folder).config(), json.loads(json.dumps(config))
        for name in ("phase", "train", "domains", "text_size", "profile_size"):
            if differ := difference(held.get(name), wanted[name], name):
                raise UserError(f"The earlier {self.folder.name} does not fit: {differ}; train without --before.")
        if wanted["phase"] == "finetune" and PhaseCheckpoint(pretrained).config().get("before") != held["pretrained"]:
            raise UserError(
                f"The earlier {self.folder.name} stands on another phase 1 than the one that this phase 1 started "
                "from; train without --before."
            )

    def load(
        self, network: Network, optimizer: torch.optim.Optimizer, average: WeightAverage, lazy: LazyAdamW | None
    ) -> None:
        """Bring what is trained, its mean and its moments to where the earlier phase stopped.

        Items that are not kept start at the id vectors that the network has, turned, and without moments.
        """
        path, initial = self.folder / STATE, network.state_dict().get(IDS)
        shapes = {name: weight.shape for name, weight in network.state_dict().items()}
        if initial is not None:
            shapes[IDS] = torch.Size([self.items + 1, initial.shape[1]])
        check_weights(path, shapes, "weights.")
        tensors = load_tensors(path)
        for prefix in ("weights.", "average."):
            if initial is not None and prefix + IDS in tensors:
                tensors[prefix + IDS] = self._ids(initial.cpu(), tensors[prefix + IDS])
        for name, moment in (lazy.state() if lazy else {}).items():
            held = tensors[LAZY_ADAMW + name]
            tensors[LAZY_ADAMW + name] = torch.zeros(moment.shape).index_copy(0, self.kept, held[self.kept_from])
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                weight.data.copy_(tensors[f"weights.{name}"])
                parallel.broadcast(weight.data)
        for name, mean in average.mean.items():
            mean.copy_(tensors.get(f"average.{name}", tensors[f"weights.{name}"]))
            parallel.broadcast(mean)
        load_moments(tensors, self.progress.steps, optimizer, lazy)

    def _ids(self, initial: Tensor, held: Tensor) -> Tensor:
        """initial: (N + 1, D) of a training from scratch. held: the earlier ones. Returns (N + 1, D)."""
        learnt = held[self.kept_from]  # (K, D)
        left, _, right = torch.linalg.svd(initial[self.kept].T @ learnt)
        turned: Tensor = initial @ (left @ right)  # (N + 1, D)
        return turned.index_copy(0, self.kept, learnt)
