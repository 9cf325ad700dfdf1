"""What the generator did: what was asked, reused and failed, and what the filter kept of its answers."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from flows.lift import lift_lines
from flows.report.tables import Tables
from flows.stages import ASKING

EXAMPLES = 3
"""Examples of each reason."""
LONGEST = 400
"""Characters that are shown of a reply that failed."""


@dataclass(frozen=True)
class AskedStage:
    """The figures of one stage that asks. What a generator that is no language model does not count is None."""

    stage: str
    rows: int
    ok: int
    failed: dict[str, int]
    asked: int | None
    reused: int | None
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    seconds_asking: float | None
    dropped: dict[str, int]


@dataclass(frozen=True)
class FailedReply:
    """A reply that could not be used."""

    stage: str
    reason: str
    about: str
    """The user, or the item, that was asked about."""
    reply: str | None


@dataclass(frozen=True)
class Answer:
    """An answer and the catalogue item that it was taken for; `reason` is None where that was kept."""

    user: str
    from_domain: str
    to_domain: str
    answer: str
    item: str | None
    faithfulness: float | None
    threshold: float | None
    relevance: float | None
    reason: str | None


@dataclass(frozen=True)
class Filter:
    """How many answers were kept and dropped, by reason, with examples of each."""

    kept: int
    dropped: dict[str, int]
    examples: list[Answer]


@dataclass(frozen=True)
class Asking:
    """What the generators did; the first three say who was asked about users, or else about items.

    `model` says of a language model which it is.
    """

    generator: str
    model: str
    asks_model: bool
    stages: list[AskedStage]
    failures: list[FailedReply]
    filter: Filter | None
    lift: list[str]

    @property
    def counts_requests(self) -> bool:
        """Whether a language model was asked about anything, users or items."""
        return any(stage.asked is not None for stage in self.stages)


def collect_asking(tables: Tables) -> Asking | None:
    """Return what the generator did; None where nothing was asked."""
    runs = {stage: run for stage, artifact in ASKING.items() if (run := tables.manifest(artifact))}
    if not runs:
        return None
    *_, last = runs.values()
    identity: dict[str, Any] = last.settings.get("llm", {})
    return Asking(
        str(last.settings["generator"]),
        str(identity.get("model", "")),
        "asked" in last.figures,
        [_asked(stage, run.outputs[ASKING[stage]].rows, run.figures) for stage, run in runs.items()],
        [each for stage in runs for each in _failures(tables, stage)],
        _filter(tables),
        lift_lines(tables.lake),
    )


def _asked(stage: str, rows: int, figures: dict[str, Any]) -> AskedStage:
    return AskedStage(
        stage=stage,
        rows=rows,
        ok=figures.get("ok", 0),
        failed=figures.get("failed", {}),
        asked=figures.get("asked"),
        reused=figures.get("reused"),
        tokens_in=figures.get("tokens_in", 0),
        tokens_out=figures.get("tokens_out", 0),
        tokens_cached=figures.get("tokens_cached", 0),
        seconds_asking=figures.get("seconds_asking"),
        dropped=figures.get("dropped", {}),
    )


def _failures(tables: Tables, stage: str) -> list[FailedReply]:
    replies = tables.scan(ASKING[stage])
    if replies is None:
        return []
    failed = replies.filter(pl.col("reason").is_not_null(), pl.col("reply").is_not_null())
    about = "user_id" if "user_id" in replies.collect_schema() else "item_id"
    some = failed.select("reason", about=about, reply=pl.col("reply").str.slice(0, LONGEST))
    rows = some.group_by("reason", maintain_order=True).head(EXAMPLES).sort("reason", maintain_order=True).collect()
    return [FailedReply(stage, **row) for row in rows.to_dicts()]


def _filter(tables: Tables) -> Filter | None:
    run, grounded = tables.manifest("grounded_items"), tables.scan("grounded_items")
    if run is None or grounded is None:
        return None
    by_user = grounded.unique(["reason", "user_id"], keep="first", maintain_order=True)
    some = by_user.group_by("reason", maintain_order=True).head(EXAMPLES).sort("reason", maintain_order=True)
    return Filter(run.figures["kept"], run.figures["dropped"], answers(some))


def answers(grounded: pl.LazyFrame) -> list[Answer]:
    """Return rows of `grounded_items` in their order."""
    rows = grounded.select(
        "from_domain", "to_domain", "answer", "faithfulness", "relevance", "reason", user="user_id",
        item=pl.coalesce("title", "item_id"), threshold="faithfulness_threshold",
    )  # fmt: skip
    return [Answer(**row) for row in rows.collect().to_dicts()]
