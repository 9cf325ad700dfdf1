"""All that a report shows, collected from the lake."""

from dataclasses import dataclass
from typing import TypeVar

from data_lake.lake import Manifest
from data_lake.progress import progress
from data_lake.schemas import ARTIFACTS
from flows.lineage import Lineage, lineage
from flows.plan import stale_artifacts
from flows.report.asking import Asking, collect_asking
from flows.report.data import Data, collect_data
from flows.report.leaks import Positions, collect_positions
from flows.report.metrics import Metrics, collect_metrics
from flows.report.tables import Tables
from flows.report.training import Curves, collect_training
from flows.report.users import User, collect_users
from flows.run import Run

T = TypeVar("T")

RESULTS = ("recommendations", "metrics")


@dataclass(frozen=True)
class Report:
    """What the lake holds of a dataset. A part that has not been made yet is None or empty.

    `stale` says of artifacts that are not there, or not current with their inputs and settings, why. `held_back` says
    why the last checkpoint was, where it is not the current one for that; `failed` is the stage at which the run that
    wants the report failed, and why. `latest` are the runs that made the current artifacts, in the order of the stages.
    """

    dataset: str
    generator: str
    stale: dict[str, str]
    held_back: str
    failed: tuple[str, str] | None
    data: Data | None
    asking: Asking | None
    users: list[User]
    training: list[Curves]
    metrics: Metrics | None
    positions: list[Positions]
    latest: list[Manifest]
    lineage: Lineage

    @property
    def written(self) -> str:
        """When the latest of the runs began."""
        return max((run.started for run in self.latest), default="")


def collect(run: Run, failed: tuple[str, str] | None = None) -> Report:
    """Read what the lake of a run holds. Nothing is asked and nothing is written; `failed` is that of the report."""
    tables = Tables(run)
    current = {name: made for name in ARTIFACTS if (made := tables.manifest(name))}
    results = [current[name] for name in RESULTS if name in current] or list(current.values())[-1:]
    order = {stage.name: number for number, stage in enumerate(run.stages)}
    latest = {made.stage: made for made in current.values()}
    with progress("reading the lake", 6, "parts") as work:

        def read(part: T) -> T:
            work.advance()
            return part

        return Report(
            dataset=run.settings.dataset,
            generator=run.settings.enrich.generator,
            stale=stale_artifacts(run),
            held_back=next(filter(None, map(run.lake.held_back, run.stages)), ""),
            failed=failed,
            data=read(collect_data(tables, list(run.settings.domains))),
            asking=read(collect_asking(tables)),
            users=read(collect_users(run)),
            training=read(collect_training(tables)),
            metrics=read(collect_metrics(tables)),
            positions=read(collect_positions(tables)),
            latest=sorted(latest.values(), key=lambda made: order[made.stage]),
            lineage=lineage(tables.lake, results),
        )
