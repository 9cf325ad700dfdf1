"""What a stage counts while it makes its shards, and when too many failed replies end it."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from data_lake.errors import UserError
from data_lake.lake import StageIO
from flows.engines import Engines
from flows.settings import Settings
from flows.text import escape_control

Figures = dict[str, Any]


def asking(
    lake: StageIO,
    stage: str,
    settings: Settings,
    engines: Engines,
    make: Callable[[pa.Table], pa.Table],
    generate: Any,
) -> Callable[[pa.Table], pa.Table]:
    """Return `make` so that it counts (see `counting`), and ends the stage where a language model fails too often.

    Then no shard with a failed row is kept: the next run asks for these rows again.
    """
    from pipeline.llm.answers import figures
    from pipeline.llm.failures import Failures, failed

    if settings.enrich.generator == "retrieval":
        return counting(lake, make, generate, figures)
    failures = Failures(settings.llm.max_failed)

    def make_and_judge(rows: pa.Table) -> pa.Table:
        table = make(rows)
        failures.add(table)
        if failures.too_many:
            lake.forget_shards(lambda shard: bool(failed(shard)))
            words = escape_control(getattr(engines.llm, "last_words", ""))
            raise UserError(
                f"{stage}: {failures}, more than [llm] max_failed = {failures.allowed} allows."
                + (f' The endpoint\'s last words: "{words}".' if words else "")
                + " Mend the cause or raise max_failed, and run again: good replies are kept, and only the failed "
                "ones are asked again."
            )
        return table

    return counting(lake, make_and_judge, generate, figures)


def counting(
    lake: StageIO,
    make: Callable[[pa.Table], pa.Table],
    asked: Any,
    figures: Callable[[pa.Table], Figures] = lambda table: {},
) -> Callable[[pa.Table], pa.Table]:
    """Return `make` so that it counts, for each shard, its figures, what a memory saved asking for, and the recall."""

    def counts() -> dict[str, float]:
        return {name: getattr(asked, name) for name in ("asked", "reused", "seconds_asking") if hasattr(asked, name)}

    def make_and_count(rows: pa.Table) -> pa.Table:
        before = counts()
        table = make(rows)
        recall = asked.recall() if hasattr(asked, "recall") else {}
        lake.count(**figures(table), **recall, **{name: count - before[name] for name, count in counts().items()})
        return table

    return make_and_count
