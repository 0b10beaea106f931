"""A study's plots, and the images of all its points of the same noise."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from discli.ablation.results import PointResults, StudyReport
from discli.ablation.scorer import read_strip
from discli.data.contact_sheet import rows_sheet
from discli.recipe.size import Size
from discli.reports.chance import correlation
from discli.reports.components import SAMPLING
from discli.reports.plots import Bars, Levels, Line, Point, bars, curves, levels, scatter

_LARGEST_MATRIX, _LEAST_ROW = 8_000, 64  # px high


def study_plots(report: StudyReport) -> dict[str, tuple[Figure, str]]:
    """File name -> plot and caption."""
    found = {}
    lines = [line for point in report.points if (line := _curve(point)) is not None]
    if lines:
        n = next(result.curve[0].n for result in report.results if result.curve)
        final = report.scored_samples
        fewer = "" if n == final else f", the final score of {final:,}"
        own = ", tuned; along the way with the recipe's own guidance" if report.is_tuned else ""
        caption = f"Score by step: mean over seeds and their range; of {n:,} samples{fewer}{own}"
        above_0 = all(value > 0 for line in lines for value in line.low or line.y)  # a loss gap may be below
        found["score-by-step.png"] = (curves(lines, "step", report.axis_label, log_y=above_0), caption)
    apart = [(point.name, point.components.parts) for point in report.points if point.components is not None]
    if apart:
        groups = [
            Bars(
                name,
                [100 * part.share.value for part in parts],
                [100 * part.share.low for part in parts],
                [100 * part.share.high for part in parts],
            )
            for name, parts in apart
        ]
        names = [part.name for part in apart[0][1]]
        caption = "Shares of the spread: of the variance of one network's score, with intervals at 95%"
        found["spread.png"] = (bars(groups, names, "% of the variance"), caption)
    if by_source := _by_source(report):
        caption = "Scores by seed: every network and set of samples, in % from its point's mean; lines: means of a seed"
        found["scores-by-seed.png"] = (levels(by_source, "% from the mean"), caption)
    costs = [point.first.forward_gflops for point in report.points]
    if len({*costs}) > 1:
        estimates = [point.score for point in report.points]
        marks = [
            Point(point.name, cost, each.mean, each.low, each.high)
            for point, cost, each in zip(report.points, costs, estimates, strict=True)
        ]
        strength = correlation([math.log10(cost) for cost in costs], [each.mean for each in estimates])
        of = "" if strength is None else f", correlation with log GFLOPs {strength:.2f} over {len(costs)} points"
        caption = f"Score by GFLOPs: of one forward pass{of}"
        found["score-by-gflops.png"] = (scatter(marks, "GFLOPs", report.axis_label), caption)
    return found


def _by_source(report: StudyReport) -> dict[str, list[Levels]]:
    """Source of chance -> each point's scores by its seeds, in % from their mean."""
    found: dict[str, list[Levels]] = {}
    for point in report.points:
        grid, parts = point.grid, point.components
        if grid is None or point.design is None or parts is None or parts.cv is None:
            continue
        apart = 100 * (grid - grid.mean()) / abs(grid.mean())
        sources = [*point.design.varied, *([SAMPLING] if grid.shape[-1] > 1 else [])]
        for axis, source in enumerate(sources):
            found.setdefault(source, []).append(
                Levels(point.name, [row.flatten().tolist() for row in np.moveaxis(apart, axis, 0)])
            )
    return found


def _curve(point: PointResults) -> Line | None:
    """The mean over seeds at the steps that all of them have."""
    by_step = [{line.step: line.score for line in result.curve} for result in point.results]
    steps = sorted(set.intersection(*(set(scores) for scores in by_step)))
    if not steps:
        return None
    values = [[scores[step] for scores in by_step] for step in steps]
    means = [sum(some) / len(some) for some in values]
    return Line(point.name, steps, means, [min(some) for some in values], [max(some) for some in values])


def image_matrix(report: StudyReport) -> Image.Image | None:
    """One row per point, with its first seed's images; of very many points the first ones."""
    rows = []
    for point in report.points[: _most_rows(report)]:
        path = report.images.get(point.first.trial)
        strip = _unstrip(path, point.first.resolution) if path is not None and path.exists() else None
        if strip is not None:
            rows.append((point.name, strip))
    return rows_sheet(rows) if rows else None


def _most_rows(report: StudyReport) -> int:
    side = report.results[0].resolution.height if report.results else 1
    return max(1, _LARGEST_MATRIX // max(side, _LEAST_ROW))


def matrix_caption(report: StudyReport) -> str:
    most, count = _most_rows(report), len(report.points)
    shown = f"; these are the first {most} of {count:,} points" if count > most else ""
    return f"Each row shows one point, from its first finished seed{shown}."


def _unstrip(path: Path, size: Size) -> Tensor | None:
    """(n, 3, H, W) uint8 of images side by side; None where they cannot be read."""
    try:
        return read_strip(path, size)
    except Exception:  # Pillow's plugins raise what their parsers stumble over: SyntaxError, struct.error, ...
        return None
