"""Actions on disk, dealt into parts by their user, so that no more than a part need be in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.deal import deal


class Parts:
    """Rows of actions in a folder, dealt into `count` parts by `user_id`; those of a part stay in their order."""

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self.columns: list[str] = []
        self._folder, self._batches = folder, 0
        folder.mkdir(parents=True)

    def add(self, actions: pl.DataFrame) -> None:
        """Write rows behind those that are there."""
        self._batches += 1
        self.columns = actions.columns
        if self.count == 1:
            dealt = {(0,): actions}
        else:
            parts = deal(actions["user_id"], self.count)
            dealt = actions.with_columns(parts).partition_by("part", as_dict=True, include_key=False)
        if self._batches == 1:
            dealt = {(part,): actions.clear() for part in range(self.count)} | dealt
        for (part,), rows in dealt.items():
            rows.write_ipc(self._folder / f"{part:05d}-{self._batches:06d}.arrow", compression="lz4")

    def read(self, part: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return a part's rows, of some columns or all; something must have been added."""
        files = sorted(self._folder.glob(f"{part:05d}-*.arrow"))
        kept = None if columns is None else list(columns)
        frames = [pl.read_ipc(path, columns=kept) for path in files]
        return pl.concat(frames, how="diagonal_relaxed")

    def save(self, part: int, name: str, values: NDArray[np.generic]) -> None:
        """Keep an array beside a part; a second call replaces it."""
        np.save(self._folder / f"{part:05d}-{name}.npy", values)

    def load(self, part: int, name: str) -> NDArray[np.generic]:
        """Return an array that was kept beside a part."""
        values: NDArray[np.generic] = np.load(self._folder / f"{part:05d}-{name}.npy")
        return values
