"""A study's report: table, what the table says in words, plots and pictures, as HTML, Markdown and CSV."""

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from discli.console import format_bytes, format_seconds
from discli.files import write_text
from discli.report.page import columns, facts, image, page
from discli.report.plots import Line, Point, as_svg, curves, save_plot, scatter
from discli.report.seeds import LEVEL, Estimate, correlation, difference, estimate
from discli.report.sheet import rows_sheet, save_picture

Result = dict[str, Any]

# With more points than this, each is compared with the best alone.
_MOST_FOR_ALL_PAIRS = 5


@dataclass(frozen=True)
class StudyReport:
    """Results of a study's finished cells as `discli.ablate_cell` writes them, and what became of the others."""

    name: str
    base: str
    budget: str
    seeds: Sequence[int]
    cells: int
    results: Sequence[Result]
    failures: Mapping[str, str] = field(default_factory=dict)  # cell -> why
    pictures: Mapping[str, Path] = field(default_factory=dict)  # cell -> strip of square pictures

    @cached_property
    def points(self) -> list["PointResults"]:
        """In the study's order."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            found.setdefault(result["point"], []).append(result)
        return [PointResults(name, results) for name, results in found.items()]

    @property
    def score_name(self) -> str:
        return str(self.results[0]["score_name"])

    @property
    def axis_label(self) -> str:
        """The score's name without its warning, which the page has above."""
        return self.score_name.partition(",")[0]


@dataclass(frozen=True)
class PointResults:
    """One combination of settings, over its seeds."""

    name: str
    results: Sequence[Result]

    @property
    def first(self) -> Result:
        return self.results[0]

    def by_seed(self, key: str) -> dict[int, float]:
        return {result["seed"]: result[key] for result in self.results}

    def estimate(self, key: str) -> Estimate:
        return estimate(list(self.by_seed(key).values()))


def write_report(report: StudyReport, out: Path) -> None:
    """report.html, report.md, cells.csv, plots and pictures in ``out``; each whole or not there."""
    out.mkdir(parents=True, exist_ok=True)
    plots, matrix = _plots(report), _matrix(report)
    write_text(out / "report.html", study_page(report, plots, matrix))
    write_text(out / "report.md", study_markdown(report, plots, matrix is not None))
    write_text(out / "cells.csv", study_csv(report))
    for name, (figure, _) in plots.items():
        save_plot(figure, out / name)
    if matrix is not None:
        save_picture(matrix, out / "pictures.png")


def summarise(report: StudyReport) -> dict[str, Any]:
    """The report for programs."""
    return {
        "study": report.name,
        "budget": report.budget,
        "score_name": report.score_name if report.results else None,
        "points": [
            {
                "point": point.name,
                "settings": point.first["settings"],
                "seeds": sorted(point.by_seed("score")),
                "score": vars(point.estimate("score")),
                "loss": vars(point.estimate("loss")),
                **{key: point.first[key] for key in ("parameters", "forward_gflops", "steps", "training_tflops")},
            }
            for point in report.points
        ],
        "in_words": list(in_words(report)),
        "failures": dict(report.failures),
    }


def study_page(report: StudyReport, plots: Mapping[str, tuple[Figure, str]], matrix: Image.Image | None) -> str:
    """The page as text."""
    parts = [f"<h1>Ablation: {escape(report.name)}</h1>", f"<p>{escape(_state(report))}</p>"]
    if report.results:
        parts.append(columns(_HEADINGS, _rows(report)))
        parts.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in in_words(report)) + "</ul>")
    if report.failures:
        parts += ["<h2>Failed cells</h2>", facts(report.failures.items())]
    for figure, caption in plots.values():
        title, _, explained = caption.partition(": ")
        parts += [f"<h2>{escape(title)}</h2>", as_svg(figure, caption), f"<p>{escape(explained)}</p>"]
    if matrix is not None:
        side = report.results[0]["recipe"]["data"]["resolution"]
        parts += ["<h2>The same noise and class in every cell</h2>", image(matrix, "picture matrix", side)]
    if report.results:
        parts += ["<h2>How it was measured</h2>", facts(_circumstances(report))]
    return page(f"{report.name}: ablation", parts)


def study_markdown(report: StudyReport, plots: Mapping[str, tuple[Figure, str]], has_matrix: bool) -> str:
    """For a README or an issue; plots and pictures beside it."""
    lines = [f"# Ablation: {report.name}", "", _state(report), ""]
    if report.results:
        lines += ["| " + " | ".join(_HEADINGS) + " |", "|---" + "|---:" * (len(_HEADINGS) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in _rows(report)]
        lines += ["", *(f"- {line}" for line in in_words(report)), ""]
    lines += [f"- Failed: {cell}: {why}" for cell, why in report.failures.items()]
    for name, (_, caption) in plots.items():
        lines += [f"![{caption}]({name})", ""]
    if has_matrix:
        lines += ["![The same noise and class in every cell](pictures.png)", ""]
    if report.results:
        lines += [f"- {name}: {text}" for name, text in _circumstances(report)]
    return "\n".join(lines).rstrip() + "\n"


def study_csv(report: StudyReport) -> str:
    """A line a cell, every figure unrounded."""
    keys = [
        "cell", "point", "seed", "score", "score_name", "loss", "parameters", "forward_gflops", "steps", "images",
        "training_tflops", "seconds", "images_per_second", "peak_memory",
    ]  # fmt: skip
    settings = list(dict.fromkeys(key for result in report.results for key in result["settings"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, *settings])
    for result in report.results:
        writer.writerow([*(result[key] for key in keys), *(result["settings"].get(key, "") for key in settings)])
    return text.getvalue()


def in_words(report: StudyReport) -> Iterator[str]:
    """Which differences in score exceed their interval, which do not, and what that rests on."""
    points = report.points
    if len(points) < 2:
        return
    best = min(points, key=lambda point: point.estimate("score").mean)
    all_pairs = len(points) <= _MOST_FOR_ALL_PAIRS
    pairs = list(itertools.combinations(points, 2)) if all_pairs else [(best, p) for p in points if p is not best]
    for a, b in pairs:
        found = difference(a.by_seed("score"), b.by_seed("score"))
        if found is None:
            yield f"{a.name} and {b.name}: no two seeds in common, so nothing can be told from chance."
            continue
        assert found.low is not None
        assert found.high is not None
        better, worse, low, high = (a, b, -found.high, -found.low) if found.mean < 0 else (b, a, found.low, found.high)
        size = f"by {abs(found.mean):.3g} ({LEVEL:.0%} interval {low:.3g} to {high:.3g}, {found.count} seeds)"
        if low > 0:
            yield f"{better.name} scores better (lower) than {worse.name} {size}."
        else:
            yield f"{better.name} scores lower than {worse.name} {size}: no more than chance would do."
    if len(pairs) > 2:
        yield f"These are {len(pairs)} comparisons: of intervals at {LEVEL:.0%}, one in twenty errs by chance alone."
    gflops = {point.first["forward_gflops"] for point in points}
    if len(gflops) > 1:
        spread = max(gflops) / min(gflops)
        yield f"The points differ in cost: the most expensive takes {spread:.3g} times the FLOPs of the cheapest."
    objectives = {point.first["recipe"]["diffusion"]["objective"]["name"] for point in points}
    if len(objectives) > 1:
        yield "Their losses measure different things (diffusion.objective) and cannot be compared."


_HEADINGS = ("", "score", "loss", "seeds", "parameters", "GFLOPs", "steps", "time a cell", "images/s", "memory")


def _rows(report: StudyReport) -> Iterator[tuple[str, ...]]:
    for point in report.points:
        first = point.first
        yield (
            point.name,
            str(point.estimate("score")),
            str(point.estimate("loss")),
            str(len(point.results)),
            f"{first['parameters']:,}",
            f"{first['forward_gflops']:.3g}",
            f"{first['steps']:,}",
            format_seconds(point.estimate("seconds").mean),
            f"{point.estimate('images_per_second').mean:,.3g}",
            format_bytes(max(point.by_seed("peak_memory").values())),
        )


def _state(report: StudyReport) -> str:
    done = f"{len(report.results)} of {report.cells} cells finished"
    seeds = f"{len(report.seeds)} seed{'s' if len(report.seeds) > 1 else ''}"
    if not report.results:
        return f"{done}; {report.budget}, {seeds}."
    n = report.results[0]["eval"]["samples"]["n"]
    return (
        f"{done}; {report.budget}, {seeds}. Score: {report.score_name}, of {n:,} samples, lower is better;"
        f" ± is half a {LEVEL:.0%} interval of the mean over seeds."
    )


def _circumstances(report: StudyReport) -> Iterator[tuple[str, str]]:
    first = report.results[0]
    scored = first["eval"]
    samples, reference = scored["samples"], scored["reference"]
    yield "base recipe", report.base
    sampling = f"{samples['sampler']['name']}, {samples['steps']} steps, NFE {samples['nfe']}"
    yield "sampling", f"{sampling}, guidance {samples['cfg_scale']}, seed {samples['seed']} in all cells"
    yield "reference", f"{reference['path']} (n = {reference['n']:,}, sha256 {reference['sha256']})"
    yield "features", f"{scored['features']}: {scored['network']} (weights sha256 {scored['weights_sha256']})"
    yield "loss", "mean over the last tenth of training"
    yield "time", "training alone, without scores, of one cell; memory: the most that a cell's process held in training"
    environments = {tuple(result["environment"].items()) for result in report.results}
    for environment in sorted(environments):
        yield "environment", ", ".join(f"{key} {value}" for key, value in environment)


def _plots(report: StudyReport) -> dict[str, tuple[Figure, str]]:
    """File name -> plot and caption."""
    found = {}
    lines = [line for point in report.points if (line := _curve(point)) is not None]
    if lines:
        n = next(result["curve"][0]["n"] for result in report.results if result["curve"])
        caption = f"Score by step: mean over seeds and their range; of {n:,} samples, fewer than the final score's"
        found["score-by-step.png"] = (curves(lines, "step", report.axis_label, log_y=True), caption)
    costs = [point.first["forward_gflops"] for point in report.points]
    if len({*costs}) > 1:
        estimates = [point.estimate("score") for point in report.points]
        marks = [
            Point(point.name, cost, each.mean, each.low, each.high)
            for point, cost, each in zip(report.points, costs, estimates, strict=True)
        ]
        strength = correlation([math.log10(cost) for cost in costs], [each.mean for each in estimates])
        of = "" if strength is None else f", correlation with log GFLOPs {strength:.2f} over {len(costs)} points"
        caption = f"Score by GFLOPs: of one forward pass{of}"
        found["score-by-gflops.png"] = (scatter(marks, "GFLOPs", report.axis_label), caption)
    return found


def _curve(point: PointResults) -> Line | None:
    """The mean over seeds at the steps that all of them have."""
    by_step = [{line["step"]: line["score"] for line in result["curve"]} for result in point.results]
    steps = sorted(set.intersection(*(set(scores) for scores in by_step)))
    if not steps:
        return None
    values = [[scores[step] for scores in by_step] for step in steps]
    means = [sum(some) / len(some) for some in values]
    return Line(point.name, steps, means, [min(some) for some in values], [max(some) for some in values])


def _matrix(report: StudyReport) -> Image.Image | None:
    """A row a point: its first seed's pictures."""
    rows = []
    for point in report.points:
        path = report.pictures.get(point.first["cell"])
        if path is not None and path.exists():
            rows.append((point.name, _unstrip(path)))
    return rows_sheet(rows) if rows else None


def _unstrip(path: Path) -> Tensor:
    """(n, 3, side, side) uint8 of square pictures side by side."""
    with Image.open(path) as strip:
        pixels = torch.from_numpy(np.asarray(strip.convert("RGB")).copy())
    return torch.stack(pixels.split(pixels.shape[0], dim=1)).permute(0, 3, 1, 2)
