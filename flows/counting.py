"""What a stage counts while it makes its shards, and when too many failed replies end it."""

from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from data_lake.errors import UserError
from data_lake.stage_io import StageIO
from flows.text import escape_control
from pipeline.llm.failures import Failures, failed
from pipeline.llm.generator import Generator

Make = Callable[[pa.Table], pa.Table]


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


def stop_on_failures(io: StageIO, make: Make, generator: Generator, stage: str, max_failed: float) -> Make:
    """Return `make` so that it raises UserError once a larger share of the asked rows has failed.

    Then no shard with a failed row is kept: the next run asks for these rows again.
    """
    failures = Failures(max_failed)

    def make_and_judge(rows: pa.Table) -> pa.Table:
        table = make(rows)
        failures.add(table)
        if failures.too_many:
            io.discard_shards(lambda shard: bool(failed(shard)))
            words = escape_control(generator.last_words)
            raise UserError(
                f"{stage}: {failures}, more than [llm] max_failed = {failures.allowed} allows."
                + (f' The endpoint\'s last words: "{words}".' if words else "")
                + " Fix the cause or raise max_failed, and run again: good replies are kept, and only the failed "
                "ones are asked again."
            )
        return table

    return make_and_judge
