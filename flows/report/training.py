"""The training curves of both phases."""

from dataclasses import dataclass

import polars as pl

from flows.report.tables import Tables
from model.config import PHASES


@dataclass(frozen=True)
class Curves:
    """One value per epoch in each list.

    `losses` are by name, the whole loss first, then its terms where there are several. `best` is the epoch whose
    weights were kept.
    """

    phase: str
    epochs: list[int]
    losses: dict[str, list[float]]
    metric: str
    values: list[float]
    best: int | None
    best_value: float | None


def collect_training(tables: Tables) -> list[Curves]:
    """Return the curves of each phase that was trained, in order."""
    found = {phase: tables.scan(artifact) for phase, artifact in PHASES.items()}
    return [_curves(phase, table.sort("epoch").collect()) for phase, table in found.items() if table is not None]


def _curves(phase: str, history: pl.DataFrame) -> Curves:
    terms = [name for name in history.columns if name.endswith("_loss")]
    used = [name for name in terms if (history[name].fill_nan(0) != 0).any()]
    shown = ["loss", *(used if len(used) > 1 else ())]
    losses = {name.removesuffix("_loss").replace("_", " "): history[name].to_list() for name in shown}
    best = history.filter("best").tail(1)
    named = [f"{metric} ({protocol})" for metric, protocol in history.select("metric", "protocol").unique().iter_rows()]
    return Curves(
        phase, history["epoch"].to_list(), losses, named[0] if named else "", history["value"].to_list(),
        *((best["epoch"].item(), best["value"].item()) if len(best) else (None, None)),
    )  # fmt: skip
