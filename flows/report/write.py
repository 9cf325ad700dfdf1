"""Write the report of a dataset."""

from pathlib import Path

from data_lake.files import put_text
from flows.report.page import render
from flows.report.report import collect
from flows.run import Run
from flows.summary import report_path


def write_report(run: Run, out: Path | None = None, failed: tuple[str, str] | None = None) -> Path:
    """Write what the lake holds of a run's dataset as one HTML page, and return its absolute path.

    Where the run failed, `failed` is the stage and why. A file that is there, `out` or the one of `report_path`, is
    replaced as a whole.
    """
    path = (out or report_path(run.lake)).absolute()
    put_text(path, render(collect(run, failed)))
    return path
