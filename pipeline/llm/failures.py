"""Tell when too many requests of a stage fail."""

from collections import Counter

import pyarrow as pa

from pipeline.llm.reading import COPIED, ECHO, REPEATED, SAME

TRY_AGAIN = frozenset({408, 409, 429})
"""Statuses of HTTP after which the same request may succeed, beside all from 500 on."""
ENOUGH = 20
"""Asked rows below which a share says nothing."""
UNASKED = frozenset({"no_items", "no_profiles", "no_title", "not_asked"})
"""Reasons of rows for which no request was sent."""
SAY_NOTHING = frozenset({ECHO, COPIED, REPEATED, SAME})
"""Reasons of replies that have the right form; `usefulness` counts them."""


def failed(replies: pa.Table) -> Counter[str]:
    """Return how many rows of an artifact of replies were asked and got no reply of the right form, by reason."""
    others = UNASKED | SAY_NOTHING
    return Counter(reason for reason in replies["reason"].to_pylist() if reason and reason not in others)


def may_pass(reason: str) -> bool:
    """Say whether the same question may be answered another day: its endpoint was busy, broken or away."""
    status = reason.removeprefix("http_")
    if status.isdigit():
        return int(status) in TRY_AGAIN or int(status) >= 500
    return reason in ("timeout", "connection")


class Failures:
    """The asked rows of a stage, counted shard by shard, and those of them that failed."""

    def __init__(self, allowed: float) -> None:
        self.allowed, self.asked = allowed, 0
        self.reasons: Counter[str] = Counter()

    def add(self, replies: pa.Table) -> None:
        """Count one shard."""
        self.asked += sum(reason not in UNASKED for reason in replies["reason"].to_pylist())
        self.reasons += failed(replies)

    @property
    def too_many(self) -> bool:
        """Whether a larger share than allowed has failed, of at least `ENOUGH` rows."""
        return self.asked >= ENOUGH and self.reasons.total() > self.allowed * self.asked

    def __str__(self) -> str:
        """Such as "27 of 30 asked rows failed (http_400: 25, cut: 2)", with the three most frequent reasons."""
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common(3))
        return f"{self.reasons.total():,} of {self.asked:,} asked rows failed ({reasons})"
