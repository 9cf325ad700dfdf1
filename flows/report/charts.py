"""Charts as SVG that takes its colours from the page: matplotlib draws in stand-ins, which become CSS variables."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH, ROW = 4.7, 0.24
"""Inches of 72 to a page's pixels on a phone: a chart's width, and the height of a line of text."""
COLOURS = 8
"""Series that have a colour of their own; page.css gives `--series-0` to the last."""
_INK, _FAINT = "#00fe00", "#00fd00"
_SERIES = [f"#00fc{number:02x}" for number in range(COLOURS)]
_VARIABLES = {_INK: "--ink", _FAINT: "--faint"} | {
    colour: f"--series-{number}" for number, colour in enumerate(_SERIES)
}

LABEL = 24
"""Characters of a label that lies beside its bar."""

STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a dollar in a domain's name starts no formula
    "font.size": 10,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Chart:
    """A drawing, what it shows in words, and the series in it by the number of their colour."""

    title: str
    svg: Markup
    legend: list[tuple[str, int]]


def over_time(title: str, starts: Sequence[date], series: Mapping[str, Sequence[int]]) -> Chart:
    """Draw counts over time, a line per series."""
    axes, finish = _axes(title, 2.1)
    for number, values in enumerate(series.values()):
        axes.plot(date2num(starts), values, color=_colour(number))
    locator = AutoDateLocator(maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    axes.set_ylim(bottom=0)
    _count(axes)
    return finish(list(series))


def over_epochs(title: str, epochs: Sequence[int], series: Mapping[str, Sequence[float]], best: int | None) -> Chart:
    """Draw a value per epoch, a line per series; a line stands at the `best` epoch."""
    axes, finish = _axes(title, 2.1)
    for number, values in enumerate(series.values()):
        axes.plot(epochs, values, color=_colour(number), marker="o", markersize=2.5)
    if best is not None:
        axes.axvline(best, color=_INK, linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    axes.set_xlabel("epoch")
    return finish(list(series))


def bars(title: str, labels: Sequence[str], series: Mapping[str, Sequence[int]], x: str) -> Chart:
    """Draw a group of bars per label, a bar per series."""
    axes, finish = _axes(title, 2.3)
    width = 0.85 / len(series)
    for number, values in enumerate(series.values()):
        left = [place + (number - (len(series) - 1) / 2) * width for place in range(len(labels))]
        axes.bar(left, values, width, color=_colour(number))
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel(x)
    axes.grid(False, axis="x")
    _count(axes)
    return finish(list(series))


def lying_bars(title: str, labels: Sequence[str], values: Sequence[float], texts: Sequence[str]) -> Chart:
    """Draw a bar per label from the top, and its text at its end."""
    axes, finish = _axes(title, ROW * (len(labels) + 1))
    axes.barh(range(len(labels)), values, 0.65, color=_colour(0))
    for place, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.annotate(
            text, (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9, color=_INK
        )
    axes.set_xlim(0, 1.22 * max([*values, 1e-9]))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    _from_the_top(axes, labels)
    return finish([])


def intervals(
    title: str, labels: Sequence[str], series: Mapping[str, Sequence[tuple[float, float, float] | None]]
) -> Chart:
    """Draw (value, low, high) as a dot with whiskers: a line of text per label, and in it a row per series."""
    axes, finish = _axes(title, ROW * (len(labels) * max(1.0, 0.55 * len(series)) + 2))
    for number, found in enumerate(series.values()):
        shift = 0.22 * (number - (len(series) - 1) / 2)
        for place, each in enumerate(found):
            if each is not None:
                value, low, high = each
                axes.plot([low, high], [place + shift] * 2, color=_colour(number), linewidth=1.4)
                axes.plot([value], [place + shift], color=_colour(number), marker="o", markersize=4)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    _from_the_top(axes, labels)
    return finish(list(series))


def _axes(title: str, height: float) -> tuple[Axes, Callable[[Sequence[str]], Chart]]:
    """Return axes to draw in, and what makes a Chart of them, given the names of the series."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure((WIDTH, height), layout="constrained")
        axes = figure.subplots()

    def finish(names: Sequence[str]) -> Chart:
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
            return Chart(title, _svg(figure, title), [(name, min(at, COLOURS - 1)) for at, name in enumerate(names)])

    return axes, finish


def _svg(figure: Figure, title: str) -> Markup:
    """Return a drawing as an element of a page: no colour, font or name of its own, but those that it refers to."""
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r" font-family: [^;\"]*;?| xmlns:xlink=\"[^\"]*\"| version=\"1.1\"", "", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("xlink:href", "href")
    known = set(re.findall(r"#(\w+)", text))
    text = re.sub(r' id="([\w.]+)"', lambda found: found[0] if found[1] in known else "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"\s+", " ", text).replace("> <", "><").strip()
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1))


def _colour(number: int) -> str:
    return _SERIES[min(number, COLOURS - 1)]


def _count(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _from_the_top(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [each if len(each) <= LABEL else f"{each[: LABEL - 1]}…" for each in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
