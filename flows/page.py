"""What Prefect's page tells of a run besides its states: a name that says what it made, log lines, and key figures."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from data_lake.lake import Lake, Manifest
from flows import text
from flows.show import flat, plain
from flows.summary import metrics_rows
from model.config import PHASES

WIDEST = 300
EPOCH = ("epoch", "loss", "learning_rate", "protocol", "metric", "value", "best")


@contextmanager
def logged() -> Iterator[None]:
    """Let the page of the flow or task that runs have each line of `text.log`, besides the terminal."""
    run = get_run_logger()
    assert isinstance(run, logging.LoggerAdapter)
    page = logging.LoggerAdapter(logging.getLogger("prefect.extra"), run.extra)  # Prefect's logger without a console
    with text.heard_by(page.info):
        yield


def name_run(name: str) -> None:
    """Give the flow's run another name."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=name)


def spoken(names: Sequence[str], active: Sequence[str]) -> str:
    """Return the names of some of the `active` stages in a few words; both stand in the order of a run.

    >>> spoken(["b", "c", "d"], ["a", "b", "c", "d"])
    'b to d'
    >>> spoken(["a", "c"], ["a", "b", "c"])
    'a, c'
    """
    if not names:
        return "nothing"
    if len(names) == len(active):
        return f"all {len(active)} stages"
    start = active.index(names[0])
    if len(names) > 2 and list(active[start : start + len(names)]) == list(names):
        return f"{names[0]} to {names[-1]}"
    return ", ".join(names) if len(names) < 5 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def show_figures(lake: Lake, manifest: Manifest) -> None:
    """Show two tables of a stage: its artifacts, and what it counted or measured."""
    key = manifest.stage.replace("_", "-")
    create_table_artifact(key=f"{key}-manifest", table=manifest.table(), description=f"What {manifest.stage} made")
    if figures := key_figures(lake, manifest):
        create_table_artifact(key=f"{key}-figures", table=figures, description=f"Key figures of {manifest.stage}")


def key_figures(lake: Lake, manifest: Manifest) -> list[dict[str, Any]]:
    """Return the rows of a table: metrics, the epochs of a training, or else what the stage counted."""
    if "metrics" in manifest.outputs:
        return metrics_rows(lake)
    if artifact := PHASES.get(manifest.stage):
        return [{name: plain(row[name]) for name in EPOCH} for row in lake.read(artifact).to_pylist()]
    return [{"figure": name, "value": text.cell(value, WIDEST)} for name, value in flat(manifest.figures)]
