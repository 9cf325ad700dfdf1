"""The page of a report. Every text that enters it is escaped."""

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from itertools import dropwhile
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from data_lake.lake import Manifest
from data_lake.schemas import ALL
from flows.report import charts
from flows.report.charts import Chart
from flows.report.data import BINS, Data, Imbalance
from flows.report.metrics import OVERALL, Metrics, Row
from flows.report.report import Report
from flows.report.training import Curves

SECTIONS = {
    "data": "Data",
    "generator": "Generator",
    "users": "Users",
    "training": "Training",
    "metrics": "Metrics",
    "leak": "No leak",
    "stages": "Seconds and memory",
    "lineage": "Lineage",
}
"""The parts of the page by their id."""

REASONS = {
    "no_neighbour": "nothing in the catalogue is near the answer",
    "unproven": "answers like it do not beat chance",
    "duplicate": "another answer to the user means the same item more closely",
    "over_budget": "others are more relevant",
}
"""What the filter's reasons mean."""

HEADLINE = "NDCG@10"
"""The metric in the first charts and at the head of the page."""

NOTHING = "\u2013"
"""A dash, where there is no value."""

_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows them."""


def render(report: Report) -> str:
    """Return the report as HTML with everything in it: style and drawings; it has no script."""
    here = files("flows.report")
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_plain
    )
    page.filters |= {"count": _count, "figure": _figure, "signed": _signed, "percent": _percent, "when": _when}
    drawn = {
        "data": _data_charts(report.data) if report.data else [],
        "training": [chart for curves in report.training for chart in _curve_charts(curves)],
        "metrics": _metric_charts(report.metrics) if report.metrics else [],
        "stages": _stage_charts(report.latest),
    }
    return page.from_string(here.joinpath("page.html").read_text(encoding="utf-8")).render(
        report=report,
        charts=drawn,
        sections=SECTIONS.items(),
        headline=_headline(report.metrics) if report.metrics else [],
        makers={artifact: run for run in report.lineage.runs for artifact in run.outputs},
        reasons=REASONS,
        css=Markup(here.joinpath("page.css").read_text(encoding="utf-8")),
    )


def _headline(metrics: Metrics) -> list[Row]:
    rows = [row for each in metrics.protocols for row in metrics.rows_of(each, OVERALL, ALL)]
    return [row for row in rows if row.metric == HEADLINE]


def _data_charts(data: Data) -> list[Chart]:
    drawn = []
    if data.timeline:
        title = f"Actions per {data.timeline.unit}"
        drawn.append(charts.over_time(title, data.timeline.starts, data.timeline.counts))
    if data.imbalance:
        drawn.append(_imbalance_chart(data.imbalance))
    return drawn


def _imbalance_chart(imbalance: Imbalance) -> Chart:
    series = {"real actions": imbalance.before}
    if imbalance.after:
        series["with inserted items"] = imbalance.after
    counts = list(zip(*series.values(), strict=True))
    first = len(counts) - len(list(dropwhile(lambda each: not any(each), counts)))
    labels = [f"{100 * at // BINS}" if at % 2 == 0 else "" for at in range(first, BINS)] + ["all"]
    shown = {name: values[first:] for name, values in series.items()}
    return charts.bars(
        "Users by the share of their largest domain", labels, shown, "% of training actions (all: no other domain)"
    )


def _curve_charts(curves: Curves) -> list[Chart]:
    loss = charts.over_epochs(f"Loss, {curves.phase}", curves.epochs, curves.losses, curves.best)
    values = {curves.metric: curves.values}
    return [
        loss,
        charts.over_epochs(f"{curves.metric} on validation, {curves.phase}", curves.epochs, values, curves.best),
    ]


def _metric_charts(metrics: Metrics) -> list[Chart]:
    protocol = metrics.protocols[0]
    by_domain = [row for row in metrics.rows_of(protocol, group=ALL) if row.metric == HEADLINE]
    by_group = [row for row in metrics.rows_of(protocol, OVERALL) if row.metric == HEADLINE]
    names = ["now", *(other.name for other in metrics.others)]

    def drawn(title: str, labels: list[str], rows: list[Row]) -> Chart:
        found = (
            [each and (each.value, each.low, each.high) for each in run]
            for run in zip(*(row.runs for row in rows), strict=True)
        )
        return charts.intervals(title, labels, dict(zip(names, found, strict=True)))

    return [
        drawn(f"{HEADLINE} by domain, {protocol}", [row.domain for row in by_domain], by_domain),
        drawn(f"{HEADLINE} by group, {protocol}", [row.group for row in by_group], by_group),
    ]


def _stage_charts(runs: Sequence[Manifest]) -> list[Chart]:
    names, seconds = [run.stage for run in runs], [run.seconds for run in runs]
    if not runs:
        return []
    drawn = [charts.lying_bars("Seconds", names, seconds, [f"{each:,.1f}" for each in seconds])]
    if any(run.peak_bytes for run in runs):
        sizes = [(run.peak_bytes or 0) / 2**20 for run in runs]
        drawn.append(charts.lying_bars("Memory, MiB", names, sizes, [f"{each:,.0f}" for each in sizes]))
    return drawn


def _plain(value: Any) -> Any:
    """Return a value as it may stand in the page: control characters of a text are written out as escapes."""
    if type(value) is not str:
        return value
    return "".join(_escaped(each) for each in value) if not value.isprintable() else value


def _escaped(character: str) -> str:
    harmless = character in "\n\t" or (unicodedata.category(character) != "Cc" and character not in _TURNING)
    return character if harmless else f"\\u{ord(character):04x}"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _figure(value: float | None, decimals: int = 4) -> str:
    return NOTHING if value is None else f"{value:,.{decimals}f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _when(started: str) -> str:
    return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M} UTC"
