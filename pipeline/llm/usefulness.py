"""Tell how much the answers of a stage say: some are text of their prompts, some the same for many users."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from pipeline.llm.answers import answers_of
from pipeline.llm.failures import ENOUGH
from pipeline.llm.prompts import DESCRIPTION
from pipeline.llm.reading import SAME, folded

MANY, SHARE = 5, 0.02
"""A reply to more than so many different prompts, and to more than this share of them, is no answer to any."""
KINDS = ("from_domain", "to_domain", "domain")
"""The columns that say what a row asks for."""
FAILED: dict[str, Any] = {
    "status": "failed", "reason": SAME, "answers": [], "item_ids": [], "text": None,
    **{name: [] for name in DESCRIPTION},
}  # fmt: skip
"""What a row holds whose reply many others got."""


@dataclass(frozen=True)
class Limits:
    """How little answers may say: `useless` is a share of them, `alike` what two users' answers have in common."""

    useless: float
    alike: float


TELL = Limits(useless=0.2, alike=0.6)
"""What a stage warns of."""


class Usefulness:
    """The replies of a stage, counted shard by shard. Keys of replies and prompts hold within one process."""

    def __init__(self) -> None:
        self._rows = [
            pl.DataFrame(schema={"reply": pl.UInt64, "prompt": pl.UInt64, "kept": pl.Int64, "lost": pl.Int64})
        ]
        self._answers = [pl.Series(dtype=pl.UInt64)]
        self._dropped: Counter[str] = Counter()
        self._overlap, self._pairs = 0.0, 0

    def add(self, shard: pa.Table) -> None:
        """Count one shard."""
        answers, dropped = answers_of(shard), shard["dropped"].to_pylist()
        rows = pl.DataFrame(
            {
                "reply": _reply_keys(answers),
                "prompt": pl.Series(shard["prompt_hash"].to_pylist(), dtype=pl.String).hash(),
                "kept": pl.Series(map(len, answers), dtype=pl.Int64),
                "lost": pl.Series(map(len, dropped), dtype=pl.Int64),
            }
        )
        self._rows.append(rows.filter(pl.col("kept") + pl.col("lost") > 0))
        self._answers.append(_keys([folded(text) for texts in answers for text in texts]).unique())
        self._dropped.update(reason for reasons in dropped for reason in reasons)
        self._compare(shard, answers)

    @property
    def common(self) -> pl.Series:
        """The keys of the replies that many different prompts got."""
        asked = pl.concat(self._rows).filter(pl.col("kept") > 0)
        prompts = pl.col("prompt").n_unique()
        is_common = (prompts > MANY) & (prompts > SHARE * asked["prompt"].n_unique())
        return asked.group_by("reply").agg(is_common=is_common).filter("is_common")["reply"]

    @property
    def useless(self) -> float:
        """The mean over the replies of the share of their answers that say nothing: all of a common reply."""
        kept = pl.when(self._is_common).then(0).otherwise(pl.col("kept"))
        share = 1 - kept / (pl.col("kept") + pl.col("lost"))
        return float(pl.concat(self._rows).select(share.mean().fill_null(0)).item())

    @property
    def alike(self) -> float:
        """The mean share of their answers (of profiles: of their words) that two users, or items, have in common."""
        return self._overlap / self._pairs if self._pairs else 0.0

    @property
    def dropped(self) -> Counter[str]:
        """The answers that say nothing, by reason."""
        same = pl.concat(self._rows).filter(self._is_common)["kept"].sum()
        return self._dropped + Counter({SAME: same})

    @property
    def distinct(self) -> int:
        """How many different answers there are, those of common replies included."""
        return pl.concat(self._answers).n_unique()

    def complaint(self, limits: Limits) -> str:
        """Say which limit is passed; "" where none is, or where too few have answered to tell."""
        if sum(map(len, self._rows)) < ENOUGH:
            return ""
        if self.useless > limits.useless:
            reasons = ", ".join(f"{reason}: {count:,}" for reason, count in self.dropped.most_common(3))
            return f"{self.useless:.0%} of what was answered says nothing (answers dropped: {reasons})"
        if self.alike > limits.alike:
            return f"the answers about any two users are alike by {self.alike:.0%}"
        return ""

    @property
    def _is_common(self) -> pl.Expr:
        return pl.col("reply").is_in(self.common.implode()) & (pl.col("kept") > 0)

    def _compare(self, shard: pa.Table, answers: Sequence[tuple[str, ...]]) -> None:
        """Compare each row with the one before it that asked for the same, about another prompt."""
        kinds = shard.select([name for name in KINDS if name in shard.column_names]).to_pylist()
        is_profile = "text" in shard.column_names
        before: dict[tuple[str, ...], tuple[str, set[str]]] = {}
        for kind, prompt, texts in zip(kinds, shard["prompt_hash"].to_pylist(), answers, strict=True):
            if not texts:
                continue
            said = set(folded(texts[0]).split()) if is_profile else set(map(folded, texts))
            other_prompt, other = before.get(tuple(kind.values()), (prompt, said))
            before[tuple(kind.values())] = prompt, said
            if other_prompt != prompt:
                self._overlap += len(said & other) / len(said | other)
                self._pairs += 1


def without_common(shard: pa.Table, common: pl.Series) -> pa.Table:
    """Return a shard in which the rows with one of the `common` replies have failed."""
    answers = answers_of(shard)
    is_common = _reply_keys(answers).is_in(common.implode()) & pl.Series([bool(texts) for texts in answers])
    for name, value in FAILED.items():
        if name in shard.column_names:
            field = shard.schema.field(name)
            values = [
                value if failed else each for each, failed in zip(shard[name].to_pylist(), is_common, strict=True)
            ]
            shard = shard.set_column(shard.schema.get_field_index(name), field, pa.array(values, field.type))
    return shard


def _reply_keys(answers: Sequence[tuple[str, ...]]) -> pl.Series:
    """Return a key for each row's answers, in whatever order they stand."""
    return _keys(["\n".join(sorted(map(folded, texts))) for texts in answers])


def _keys(texts: Sequence[str]) -> pl.Series:
    return pl.Series(texts, dtype=pl.String).hash()
