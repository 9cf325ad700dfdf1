"""Judge what a language model says to the prompts of a stage, and end the stage where it fails or says too little."""

from collections.abc import Iterable

import pyarrow as pa

from data_lake.errors import UserError
from data_lake.messages import escape_control
from data_lake.stage_io import Make, StageIO
from flows.text import log
from pipeline.config import LLMConfig
from pipeline.llm.answers import answers_of
from pipeline.llm.failures import Failures, failed
from pipeline.llm.generator import Generator
from pipeline.llm.reading import SAME
from pipeline.llm.usefulness import TELL, Limits, Usefulness, without_common


class Judge:
    """Ends a stage where a language model fails too often, or says too little; `stage` is the stage's name."""

    def __init__(self, io: StageIO, generator: Generator, stage: str, llm: LLMConfig) -> None:
        self._io, self._generator, self._stage = io, generator, stage
        self._limits = Limits(useless=llm.max_useless, alike=llm.max_alike)
        self._failures, self._usefulness = Failures(llm.max_failed), Usefulness()

    def judging(self, make: Make) -> Make:
        """Return `make` so that it raises UserError once a larger share of the asked rows than allowed has failed.

        Then no shard with a failed row is kept: the next run asks for these rows again. It raises UserError, too, once
        the answers say too little.
        """

        def make_and_judge(rows: pa.Table) -> pa.Table:
            table = make(rows)
            self._failures.add(table)
            self._usefulness.add(table)
            if self._failures.too_many:
                self._io.discard_shards(lambda shard: bool(failed(shard)))
                raise UserError(self._too_many_failed())
            self._stop_where_useless(self._usefulness)
            return table

        return make_and_judge

    def review(self, shards: Iterable[pa.Table]) -> Make:
        """Read every shard, and return what makes the rows fail whose reply many other prompts got, too.

        Warns where the answers of all shards say little, and raises UserError where they say too little.
        """
        usefulness = Usefulness()
        for shard in shards:
            usefulness.add(shard)
        self._stop_where_useless(usefulness)
        if complaint := usefulness.complaint(TELL):
            log(f"{self._stage}: warning: {complaint}.")
        common = usefulness.common
        self._io.count(distinct_answers=usefulness.distinct, alike=round(usefulness.alike, 4))

        def reviewed(shard: pa.Table) -> pa.Table:
            changed = without_common(shard, common)
            rows = _ok_rows(shard) - _ok_rows(changed)
            answers = _answers(shard) - _answers(changed)
            if rows:
                self._io.count(ok=-rows, failed={SAME: rows}, answers=-answers, dropped={SAME: answers})
            return changed

        return reviewed

    def _stop_where_useless(self, usefulness: Usefulness) -> None:
        if complaint := usefulness.complaint(self._limits):
            raise UserError(
                f"{self._stage}: {complaint}, more than [llm] max_useless = {self._limits.useless} or max_alike = "
                f"{self._limits.alike} allows. Choose another model or prompt, or raise the limit, and run again: "
                "replies are kept."
            )

    def _too_many_failed(self) -> str:
        words = escape_control(self._generator.last_words)
        return (
            f"{self._stage}: {self._failures}, more than [llm] max_failed = {self._failures.allowed} allows."
            + (f' The endpoint\'s last words: "{words}".' if words else "")
            + " Fix the cause or raise max_failed, and run again: good replies are kept, and only requests that failed "
            "are sent again. Bad replies of a model at temperature 0 are kept, too: --ask-again asks for new ones."
        )


def _ok_rows(shard: pa.Table) -> int:
    return shard["status"].to_pylist().count("ok")


def _answers(shard: pa.Table) -> int:
    return sum(map(len, answers_of(shard)))
