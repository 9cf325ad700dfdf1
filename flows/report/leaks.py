"""How far what each row rests on stands from what it must not rest on."""

from dataclasses import dataclass

import polars as pl

from flows.positions import POSITIONED, PositionCheck, check_positions
from flows.report.tables import Tables


@dataclass(frozen=True)
class Positions:
    """The positions in an artifact's rows; `unseen` rows rest on no action.

    `least_apart` is the least number of actions from the last one seen to the first forbidden one, 1 where they are
    neighbours; None where no row has both.
    """

    check: PositionCheck
    unseen: int
    least_apart: int | None


def collect_positions(tables: Tables) -> list[Positions]:
    """Return the positions of each artifact that has some."""
    found = []
    for artifact in POSITIONED:
        rows = tables.scan(artifact)
        check = None if rows is None else check_positions(tables.lake, artifact)
        if rows is not None and check is not None:
            apart = (pl.col("forbidden") - pl.col("seen")).min()
            unseen, least = rows.select(pl.col("seen").null_count(), apart=apart).collect(engine="streaming").row(0)
            found.append(Positions(check, unseen, least))
    return found
