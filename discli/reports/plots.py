"""Curves and scatter plots: SVG inside pages, where they follow light and dark, and PNG for everything else."""

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from discli.runtime.files import write_beside

# Dark enough for a PNG on white; in a page it becomes the page's own text colour.
_INK = "#333435"
# In a page these become var(--plot-1, ...), which templates/style.css sets for light and dark.
_COLOURS = ("#1f77b4", "#d1610a", "#2a8f2a", "#b8327f", "#8459b5", "#8c564b")
_STYLE: dict[str, Any] = {
    "axes.edgecolor": _INK, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": _INK, "grid.alpha": 0.15,
    # Dashed when the colours have been through.
    "axes.prop_cycle": cycler(linestyle=("-", "--", ":", "-.")) * cycler(color=_COLOURS),
    "legend.frameon": False, "font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "discli",
}  # fmt: skip
Size = tuple[float, float]  # inches
WIDE: Size = (7.2, 3.8)
SMALL: Size = (4.9, 3.1)  # two beside each other on a page, and letters that a phone's width leaves readable
_MOST_IN_LEGEND = 24  # as many as differ in colour or dashes
_LINE_IN_LEGEND = 0.19  # inches
_MARKS = "os^D"  # in turn, when the colours have been through
_MOST_NAMED = 6  # marks with their name beside them; of more, or longer ones, a legend tells
_LONGEST_NAME = 26  # letters, of those
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
    log_x: bool = False,
) -> Figure:
    """Lines on one pair of axes. A legend of one line stands above them, a longer one below."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(x_label, y_label, size)
        for line in lines:
            (drawn,) = axes.plot(line.x, line.y, label=line.name, linewidth=1.6)
            if len(line.x) < 30:
                drawn.set_marker(".")
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0)
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=8))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
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
            _legend_below(figure, [line.name for line in lines])
    return figure


def _legend_below(figure: Figure, names: Sequence[str]) -> None:
    """In columns, with room of its own: the axes keep their height."""
    width, height = figure.get_size_inches()
    fits = int(_LETTERS_AN_INCH * width) - _SWATCH
    folded = [textwrap.wrap(name.replace(",", ", "), fits, max_lines=3, placeholder="\u2026") for name in names]
    names = ["\n".join(parts) for parts in folded]
    widest = max(len(line) for name in names for line in name.split("\n")) + _SWATCH
    columns = max(1, min(len(names), (fits + _SWATCH) // widest))
    lines = sum(name.count("\n") + 1 for name in names) / columns
    figure.set_size_inches(width, height + _LINE_IN_LEGEND * (math.ceil(lines) + 1))
    handles, _ = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=columns, handlelength=2.4, columnspacing=1.2)


def scatter(points: Sequence[Point], x_label: str, y_label: str) -> Figure:
    """Marks over a logarithmic x. Names stand beside them, or in a legend; of more than 24 marks, nowhere."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(x_label, y_label)
        middle = math.sqrt(min(point.x for point in points) * max(point.x for point in points))
        beside = len(points) <= _MOST_NAMED and all(len(point.name) <= _LONGEST_NAME for point in points)
        for number, point in enumerate(points):
            bars = None
            if point.low is not None and point.high is not None:
                bars = [[point.y - point.low], [point.high - point.y]]
            mark = _MARKS[number // len(_COLOURS) % len(_MARKS)]
            axes.errorbar(point.x, point.y, yerr=bars, fmt=mark, capsize=3, label=point.name)
            if beside:
                # On the side where there is room.
                offset, side = ((-7, 3), "right") if point.x > middle else ((7, 3), "left")
                axes.annotate(point.name, (point.x, point.y), offset, textcoords="offset points", fontsize=9, ha=side)
        if not beside and len(points) <= _MOST_IN_LEGEND:
            _legend_below(figure, [point.name for point in points])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.xaxis.set_minor_formatter(NullFormatter())
        _plain_numbers(axes.xaxis)
        axes.margins(x=0.15, y=0.1)
    return figure


@dataclass(frozen=True)
class Bars:
    """A group of bars: a value of each name, with its interval."""

    name: str
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def bars(groups: Sequence[Bars], names: Sequence[str], x_label: str) -> Figure:
    """Lying bars with intervals, ``names`` from top to bottom, a bar of each group beside each name."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(x_label, "", (WIDE[0], 1.0 + 0.32 * len(names) * max(1.5, len(groups))))
        width = 0.8 / len(groups)
        for number, group in enumerate(groups):
            places = [row + (number - (len(groups) - 1) / 2) * width for row in range(len(names))]
            # Of a value beyond its interval there is no bar on that side.
            below = [max(0.0, value - low) for value, low in zip(group.values, group.low, strict=True)]
            above = [max(0.0, high - value) for value, high in zip(group.values, group.high, strict=True)]
            style = {"capsize": 3, "linewidth": 1.2}
            axes.barh(
                places,
                group.values,
                width,
                label=group.name,
                xerr=[below, above],
                error_kw=style,
                ecolor=_INK,
                alpha=0.8,
            )
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(left=0)
        if 1 < len(groups) <= _MOST_IN_LEGEND:
            _legend_below(figure, [group.name for group in groups])
    return figure


@dataclass(frozen=True)
class Levels:
    """Values by the levels of something: by seed."""

    name: str
    values: Sequence[Sequence[float]]  # of each level from 0


def levels(panels: Mapping[str, Sequence[Levels]], y_label: str) -> Figure:
    """A panel each, side by side over one y: every value a dot over its level, and the mean of each level a line."""
    most = max(len(series.values) for every in panels.values() for series in every)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(max(WIDE[0], 0.25 * most * len(panels)), WIDE[1]), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (name, every) in zip(row, panels.items(), strict=True):
            width = 0.7 / len(every)
            for number, series in enumerate(every):
                colour, middle = _COLOURS[number % len(_COLOURS)], (number - (len(every) - 1) / 2) * width
                for level, values in enumerate(series.values):
                    # Beside one another, in the order that they have, so that none hides another.
                    x = [level + middle + 0.6 * width * ((i + 0.5) / len(values) - 0.5) for i in range(len(values))]
                    axes.plot(x, values, ".", color=colour, markersize=4, alpha=0.6)
                    mean, half = sum(values) / len(values), 0.45 * width
                    label = series.name if level == 0 and axes is row[0] else None
                    ends = [level + middle - half, level + middle + half]
                    axes.plot(ends, [mean, mean], "-", color=colour, linewidth=2, label=label)
            axes.set_title(name, fontsize=10)
            axes.set_xticks(range(max(len(series.values) for series in every)))
            axes.set_xlabel("seed")
            axes.grid(axis="x", visible=False)
        row[0].set_ylabel(y_label)
        names = [series.name for series in next(iter(panels.values()))]
        if 1 < len(names) <= _MOST_IN_LEGEND:
            _legend_below(figure, names)
    return figure


@dataclass(frozen=True)
class Map:
    """A score by two settings: ``values`` a row for each of ``rows``, from the lowest up."""

    name: str
    columns: Sequence[float]
    rows: Sequence[float]
    values: Sequence[Sequence[float]]


def heat_maps(maps: Sequence[Map], x_label: str, y_label: str, what: str) -> Figure:
    """Beside one another in one scale of colours, numbers in the cells; the lowest of all has a frame."""
    columns, rows = max(len(one.columns) for one in maps), max(len(one.rows) for one in maps)
    lowest = min(min(row) for one in maps for row in one.values)
    highest = max(max(row) for one in maps for row in one.values)
    with mpl.rc_context(_STYLE | {"axes.grid": False}):
        size = (1.6 + len(maps) * max(2.0, 0.72 * columns), 1.4 + max(1.2, 0.5 * rows))
        figure = Figure(figsize=size, layout="constrained")
        every = figure.subplots(1, len(maps), squeeze=False)[0]
        for one, axes in zip(maps, every, strict=True):
            drawn = axes.imshow(
                one.values, origin="lower", aspect="auto", cmap="viridis_r", vmin=lowest, vmax=highest or None
            )
            axes.set_title(one.name, fontsize=10)
            axes.set_xticks(range(len(one.columns)), [f"{value:.3g}" for value in one.columns])
            axes.set_yticks(range(len(one.rows)), [f"{value:.3g}" for value in one.rows])
            axes.set_xlabel(x_label)
            for y, row in enumerate(one.values):
                for x, value in enumerate(row):
                    # viridis, turned round: yellow where it is low.
                    colour = "white" if value - lowest > 0.4 * (highest - lowest) else "black"
                    bold = "bold" if value == lowest else "normal"
                    axes.text(x, y, f"{value:.3g}", ha="center", va="center", fontsize=8, color=colour, fontweight=bold)
                    if value == lowest:
                        axes.add_patch(
                            Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, linewidth=2, edgecolor="#d1610a")
                        )
        every[0].set_ylabel(y_label)
        figure.colorbar(drawn, ax=list(every), label=what)
    return figure


def as_svg(figure: Figure, what: str) -> str:
    """HTML for a page, with all text escaped: its text is text, and its ink is the page's text colour."""
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
    """Write a PNG, which is whole or not there. Raises OSError where it cannot be written."""
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
