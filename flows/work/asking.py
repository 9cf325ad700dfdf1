"""What works that ask a generator have in common: the users they are about, replies that are counted and judged."""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from data_lake.stage_io import Make, Part, unchanged
from flows.counting import with_counts
from flows.stage_spec import StageRun


def of_users_only(users: Sequence[str] | None, table: pa.Table) -> pa.Table:
    """Return the rows of some users; of all where these are null."""
    return table if users is None else table.filter(pc.is_in(table["user_id"], value_set=pa.array(users)))


def ask(
    run: StageRun, stage: str, artifact: str, parts: Sequence[Callable[[], pa.Table]], keys: Sequence[str], make: Make,
    rows_per_shard: int,
) -> None:  # fmt: skip
    """Make an artifact of replies, shard by shard; what a language model says is counted and judged."""
    from flows.judge import Judge
    from pipeline.llm.answers import figures

    review = unchanged
    if run.generator.asks_model:
        judge = Judge(run.io, run.generator, stage, run.settings.llm)
        make, review = judge.judging(make), judge.review
    counted = with_counts(run.io, make, run.generator, figures)
    run.io.sharded(artifact, [Part(rows, lambda: counted) for rows in parts], keys, rows_per_shard, review)
