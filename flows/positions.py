"""The proof that nothing leaked: what each row rests on stands before what it must not rest on."""

from dataclasses import dataclass

import pyarrow.dataset as ds

from data_lake.lake import Lake
from data_lake.messages import escape_control
from data_lake.schemas import ARTIFACTS
from data_lake.tables import open_parts
from flows.run import Run

POSITIONED = tuple(
    name for name, artifact in ARTIFACTS.items() for schema in artifact.tables.values() if "forbidden" in schema.names
)
"""The artifacts whose rows say what they saw."""

LEAKED = ds.field("seen") >= ds.field("forbidden")  # not true where one of them is null


@dataclass(frozen=True)
class PositionCheck:
    """How many rows of an artifact there are, how many saw too much, and the first of these."""

    artifact: str
    rows: int
    leaked: int
    first: str = ""

    def __str__(self) -> str:
        kept = f"{self.rows - self.leaked:,} of {self.rows:,} rows saw nothing at or after their first forbidden action"
        return f"{kept}; the first that did is of {self.first}" if self.leaked else kept


def check_positions(lake: Lake, artifact: str) -> PositionCheck | None:
    """Compare `seen` with `forbidden` in all rows; None where the artifact, or the version that made it, has neither.

    Raises UserError where the artifact is not there, or not as it was written.
    """
    if artifact not in POSITIONED:
        return None
    folder = lake.verified_path(artifact, full=False)
    data = open_parts(folder)
    if "forbidden" not in data.schema.names:
        return None
    leaked, first = data.count_rows(filter=LEAKED), ""
    if leaked:
        [row] = data.head(1, columns=["user_id", "seen", "forbidden"], filter=LEAKED).to_pylist()
        first = f"user {escape_control(row['user_id'])}: {row['seen']}, forbidden from {row['forbidden']} on"
    return PositionCheck(artifact, data.count_rows(), leaked, first)


def check_stages(run: Run) -> dict[str, PositionCheck]:
    """Return what `check_positions` finds for each stage whose artifact is there as it was written."""
    found: dict[str, PositionCheck] = {}
    for stage in run.stages:
        for artifact in set(stage.makes) & set(POSITIONED):
            if run.lake.manifest(artifact) and not run.lake.find_alteration(artifact, full=False):
                check = check_positions(run.lake, artifact)
                found |= {stage.name: check} if check else {}
    return found
