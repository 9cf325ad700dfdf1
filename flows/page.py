"""What Prefect's page tells of a run besides its states: its name, log lines, progress and key figures."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from data_lake.lake import Lake, Manifest
from data_lake.pace import View, sentence
from data_lake.progress import shown_to
from flows import text
from flows.show import flat, plain
from flows.summary import metrics_rows
from model.config import PHASES

WIDEST = 300
EVERY = 5.0
"""Seconds between two words on the progress of a stage."""
EPOCH = ("epoch", "loss", "learning_rate", "protocol", "metric", "value", "best")


@contextmanager
def logged() -> Iterator[None]:
    """Let the page of the flow or task that runs have each line of `text.log`, besides the terminal."""
    run = get_run_logger()
    assert isinstance(run, logging.LoggerAdapter)
    page = logging.LoggerAdapter(logging.getLogger("prefect.extra"), run.extra)  # Prefect's logger without a console
    with text.heard_by(page.info):
        yield


@contextmanager
def progress_shown(stage: str) -> Iterator[None]:
    """Let the page have the progress of a stage that is made in the context, and takes a second or more."""
    shown = _Progress(stage)
    with shown_to(shown):
        yield
    shown.finish()


class _Progress:
    """Keeps an artifact of the task that says how far the stage is; a server that fails to take it ends nothing."""

    def __init__(self, stage: str) -> None:
        self._stage, self._last, self._is_refused = stage, -EVERY, False
        self._artifact: UUID | None = None

    def show(self, views: Sequence[View]) -> None:
        """Show how the work stands, unless that was shown a few seconds ago."""
        if time.monotonic() - self._last >= EVERY:
            measured = next((view for view in views if view.total), None)
            percent = 100 * measured.done / measured.total if measured and measured.total else 0.0
            self._tell(min(percent, 100.0), "; ".join(map(sentence, views)))
            self._last = time.monotonic()

    def close(self) -> None:
        """Leave it as it stands."""

    def finish(self) -> None:
        """Say that it is done, where anything was said."""
        if self._artifact:
            self._tell(100.0, f"{self._stage} is made")

    def _tell(self, percent: float, words: str) -> None:
        if self._is_refused:
            return
        try:
            if self._artifact:
                update_progress_artifact(self._artifact, percent, words)
            else:
                key = f"{self._stage.replace('_', '-')}-progress"
                made = create_progress_artifact(percent, key, words)
                assert isinstance(made, UUID)  # no coroutine: no event loop runs here
                self._artifact = made
        except httpx.HTTPError:
            self._is_refused = True


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
        return [_short(row) for row in metrics_rows(lake)]
    if artifact := PHASES.get(manifest.stage):
        return [_short({name: row[name] for name in EPOCH}) for row in lake.read(artifact).to_pylist()]
    return [{"figure": name, "value": text.cell(value, WIDEST)} for name, value in flat(manifest.figures)]


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a table with four digits of what is no whole number."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in plain(row).items()}
