"""Curves and scatter plots: SVG inside pages, where they follow light and dark, and PNG for everything else."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from discli.files import write_beside

# Dark enough for a PNG on white; in a page it becomes the page's own text colour.
_INK = "#333435"
# In a page these become var(--plot-1, ...), which `discli.report.page` sets for light and dark.
_COLOURS = ("#1f77b4", "#d1610a", "#2a8f2a", "#b8327f", "#8459b5", "#8c564b")
_STYLE: dict[str, Any] = {
    "axes.edgecolor": _INK, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": _INK, "grid.alpha": 0.15,
    "axes.prop_cycle": cycler(color=_COLOURS),
    "legend.frameon": False, "font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "discli",
}  # fmt: skip
Size = tuple[float, float]  # inches
WIDE: Size = (7.2, 3.8)
SMALL: Size = (4.9, 3.1)  # two beside each other on a page, and letters that a phone's width leaves readable
_MOST_IN_LEGEND = 12
_LETTERS_AN_INCH, _SWATCH = 11, 4  # of a legend in one line; a line's mark takes the room of that many letters


@dataclass(frozen=True)
class Line:
    """One curve; ``low`` and ``high`` bound a band around it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Point:
    """One mark with its name beside it, and an interval of y."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def curves(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    log_y: bool = False,
    size: Size = WIDE,
    from_zero: bool = False,
) -> Figure:
    """Lines that share their axes; a legend where there is more than one, above them where it fits."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(x_label, y_label, size)
        for line in lines:
            (drawn,) = axes.plot(line.x, line.y, label=line.name, linewidth=1.6)
            if len(line.x) < 30:
                drawn.set_marker(".")
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        _plain_numbers(axes.xaxis)
        if log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.yaxis.set_minor_formatter(NullFormatter())
        _plain_numbers(axes.yaxis)
        if from_zero:
            axes.set_ylim(bottom=0)
        letters = sum(len(line.name) + _SWATCH for line in lines)
        if len(lines) > 1 and letters <= _LETTERS_AN_INCH * size[0]:
            figure.legend(loc="outside upper left", ncols=len(lines), handlelength=1.2, columnspacing=1.2)
        elif 1 < len(lines) <= _MOST_IN_LEGEND:
            axes.legend()
    return figure


def scatter(points: Sequence[Point], x_label: str, y_label: str) -> Figure:
    """Named marks over a logarithmic x."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(x_label, y_label)
        for point in points:
            bars = None
            if point.low is not None and point.high is not None:
                bars = [[point.y - point.low], [point.high - point.y]]
            axes.errorbar(point.x, point.y, yerr=bars, fmt="o", capsize=3)
            axes.annotate(point.name, (point.x, point.y), xytext=(7, 3), textcoords="offset points", fontsize=9)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.xaxis.set_minor_formatter(NullFormatter())
        _plain_numbers(axes.xaxis)
        axes.margins(x=0.15, y=0.1)
    return figure


def as_svg(figure: Figure, what: str) -> str:
    """For a page: its text is text, and its ink the colour of the page's own."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{escape(what)}" ', 1)
    for number, colour in enumerate(_COLOURS, start=1):
        svg = svg.replace(colour, f"var(--plot-{number}, {colour})")
    return f'<div class="plot">{svg}</div>'


def save_plot(figure: Figure, path: Path) -> None:
    """A PNG that is whole or not there."""
    with mpl.rc_context(_STYLE):
        write_beside(path, lambda temporary: figure.savefig(temporary, format="png", dpi=144, facecolor="white"))


def _plain_numbers(axis: Axis) -> None:
    """100,000 and 0.02 rather than powers of ten."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _axes(x_label: str, y_label: str, size: Size = WIDE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes
