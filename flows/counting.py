"""What a stage counts while it makes its shards."""

from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from data_lake.stage_io import Make, StageIO


class Counting(Protocol):
    """Counts what it does."""

    def counts(self) -> dict[str, Any]:
        """Return what was counted since the last call."""


def with_counts(io: StageIO, make: Make, counting: Counting, figures: Callable[[pa.Table], dict[str, Any]]) -> Make:
    """Return `make` so that each shard adds its figures, and what was counted while it was made, to the manifest's."""

    def make_and_count(rows: pa.Table) -> pa.Table:
        counting.counts()  # drop what was counted before this shard
        table = make(rows)
        io.count(**figures(table), **counting.counts())
        return table

    return make_and_count
