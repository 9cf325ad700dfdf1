"""A phase that goes on from the weights of an earlier one, whose training set knew other users and items.

What belongs to no item is kept as it is, its optimiser's moments with it. An id vector is kept, found by the item's
id, where the earlier phase trained on the item. Any other item starts as in a training from scratch, seen from the
earlier phase: the factorisation of co-occurrence has no directions of its own, so tonight's vectors are turned onto the
learnt ones of the items that are kept (orthogonal Procrustes: Schönemann, 1966).

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

    def load_weights(self, network: Network) -> None:
        """Overwrite what is trained of a network whose id vectors are those of a training from scratch."""
        shapes = {name: weight.shape for name, weight in network.state_dict().items()}
        if IDS in shapes:
            shapes[IDS] = torch.Size([self.items + 1, *shapes[IDS][1:]])
        check_weights(self.folder / MODEL, shapes)
        held = load_tensors(self.folder / MODEL)
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                learnt = self._ids(weight.detach().cpu(), held[name]) if name == IDS else held[name]
                weight.data.copy_(learnt)
                parallel.broadcast(weight.data)

    def load_moments(self, optimizer: torch.optim.Optimizer, lazy: LazyAdamW | None) -> None:
        """Let the optimizers go on with the moments of the weights that are kept; those of other items are zero."""
        tensors = load_tensors(self.folder / STATE)
        for name, moment in (lazy.state() if lazy else {}).items():
            held = tensors[LAZY_ADAMW + name]
            tensors[LAZY_ADAMW + name] = torch.zeros(moment.shape).index_copy(0, self.kept, held[self.kept_from])
        load_moments(tensors, self.progress.steps, optimizer, lazy)

    def _ids(self, initial: Tensor, held: Tensor) -> Tensor:
        """initial: (N + 1, D) of a training from scratch. held: the earlier ones. Returns (N + 1, D)."""
        learnt = held[self.kept_from]  # (K, D)
        left, _, right = torch.linalg.svd(initial[self.kept].T @ learnt)
        turned: Tensor = initial @ (left @ right)  # (N + 1, D)
        return turned.index_copy(0, self.kept, learnt)
