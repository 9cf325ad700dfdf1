"""What a person sees of a training: lines on stderr, and TensorBoard's event files."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_lake.errors import UserError
from data_lake.messages import escape_control
from model.checkpoint import Progress

TOLD_EVERY = 1.0
"""Seconds between two looks at how an epoch goes."""


class Report:
    """Shows how the epochs of a phase go."""

    def __init__(self, phase: str, epochs: int, tensorboard: Path | None) -> None:
        self.phase, self.epochs, self.tensorboard = phase, epochs, tensorboard
        self.start(0, 0)

    def start(self, epoch: int, users: int) -> None:
        """Begin an epoch of this number of users."""
        self.number, self.users, self.done = epoch, users, 0
        self.started = self.told = time.monotonic()

    def is_due(self, users: int) -> bool:
        """Count the users of a batch. Returns whether it is time to tell how the epoch goes."""
        self.done += users
        return time.monotonic() - self.told > TOLD_EVERY

    def note(self, loss: float) -> str:
        """Return how the epoch goes. loss: the mean of its batches so far."""
        self.told = time.monotonic()
        return f"loss {loss:.4f}, {self.done / (self.told - self.started):.0f} sequences/s"

    def speed(self) -> str:
        """Return how fast the epoch was."""
        return f"{self.users / (time.monotonic() - self.started):.0f} sequences/s"

    def epoch(self, progress: Progress, row: Mapping[str, Any], by_domain: Mapping[str, float], speed: str) -> None:
        """Show an evaluated epoch. row: of the history. by_domain: the validation figure."""
        self._to_tensorboard(progress, row, by_domain)
        shown = ", ".join(f"{escape_control(name)} {figure:.4f}" for name, figure in by_domain.items())
        left = (time.monotonic() - self.started) * (self.epochs - progress.epoch) / 60
        parts = ", ".join(f"{name} {value:.4f}" for name, value in progress.parts.items())
        print(
            f"{self.phase} epoch {progress.epoch}/{self.epochs}: loss {progress.loss:.4f} ({parts}), "
            f"{speed}, at most {left:.1f} min left in this phase, "
            f"validation {row['protocol']} {row['metric']}: {shown}{' *' if row['best'] else ''}",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    def _to_tensorboard(self, progress: Progress, row: Mapping[str, Any], by_domain: Mapping[str, float]) -> None:
        if self.tensorboard is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("--tensorboard needs the package tensorboard. Install it or drop the option.") from error
        figures = {**progress.losses(), "learning_rate": progress.learning_rate, "value": row["value"]}
        figures |= {f"{row['metric']}/{name}": figure for name, figure in by_domain.items()}
        with SummaryWriter(str(self.tensorboard)) as writer:
            for name, figure in figures.items():
                writer.add_scalar(f"{self.phase}/{name}", figure, progress.epoch)
