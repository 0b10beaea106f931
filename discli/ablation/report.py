"""A study's report: table, what the table says in words, plots and images, as HTML, Markdown and CSV."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from discli.ablation.figures import image_matrix, matrix_caption, study_plots
from discli.ablation.findings import in_words
from discli.ablation.gaps import UNTOLD, beside_baseline
from discli.ablation.results import BesideBaseline, PointResults, PointSummary, StudyReport, StudySummary
from discli.ablation.trial_result import TrialResult, Tuned
from discli.data.contact_sheet import save_image
from discli.reports.chance import LEVEL, Estimate
from discli.reports.components import SAMPLING, TOGETHER, Interval
from discli.reports.page import image_uri, render
from discli.reports.plots import as_svg, save_plot
from discli.runtime.console import format_bytes, format_seconds
from discli.runtime.files import write_text
from discli.runtime.numbers import format_number

_MATRIX = "The same noise and class in every trial"
_SPREAD = "Where the spread comes from:"
_SPREAD_EXPLAINED = (
    "Variances of a crossed design by the method of moments, with generalized confidence intervals at 95%; beside them"
    " a parametric bootstrap of the deviation, which is too narrow with few seeds. Varied alone: the deviation where"
    " the other seeds are held. What one more seed costs: time to train + time to score. Of FID, The FID Lottery"
    " (arXiv:2606.20536) found a deviation of 1 to 2% of the score, and that another training moves it 3.2 times as"
    " much as other samples."
)
_MOST_TUNED = 3  # settings that trials of a point were tuned to, in the table, or that trials were drawn with


def write_report(report: StudyReport, out: Path) -> None:
    """Write report.html, report.md, trials.csv, plots and images into ``out``; each file is whole or not there.

    Raises OSError where one cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    plots, matrix = study_plots(report), image_matrix(report)
    write_text(out / "report.html", study_page(report, plots, matrix))
    write_text(out / "report.md", study_markdown(report, plots, matrix is not None))
    write_text(out / "trials.csv", study_csv(report))
    for name, (figure, _) in plots.items():
        save_plot(figure, out / name)
    if matrix is not None:
        save_image(matrix, out / "images.png")


def summarise(report: StudyReport) -> StudySummary:
    """The report for programs."""
    return StudySummary(
        study=report.name,
        budget=report.budget,
        score_name=report.score_name if report.results else None,
        points=[
            PointSummary(
                point=point.name,
                settings=point.first.settings,
                seeds=sorted(point.by_seed("score"), key=lambda seed: (seed.init, seed.order, seed.noise)),
                score=point.score,
                components=point.components,
                recognised=point.recognised,
                loss=point.estimate("loss"),
                seconds=point.estimate("seconds").mean,
                scoring_seconds=point.estimate("scoring_seconds").mean,
                tuning_seconds=point.tuning_seconds,
                tuned=point.tuned,
                parameters=point.first.parameters,
                forward_gflops=point.first.forward_gflops,
                steps=point.first.steps,
                training_tflops=point.first.training_tflops,
            )
            for point in report.points
        ],
        baseline=report.baseline,
        beside_baseline=beside_baseline(report),
        in_words=list(in_words(report)),
        failures=dict(report.failures),
    )


def study_page(report: StudyReport, plots: Mapping[str, tuple[Figure, str]], matrix: Image.Image | None) -> str:
    """The page as text; ``plots`` by their file's name, with captions."""
    shown = None
    if matrix is not None:
        side = max(report.results[0].resolution)
        shown = {"title": _MATRIX, "caption": matrix_caption(report), "uri": image_uri(matrix, side)}
    captions = [(figure, caption, caption.partition(": ")) for figure, caption in plots.values()]
    return render(
        "study.html",
        report=report,
        state=_state(report),
        headings=_headings(report),
        rows=list(_rows(report)),
        findings=in_words(report),
        beside=_beside_baseline(report),
        spreads=list(_spreads(report)),
        spread_explained=_SPREAD_EXPLAINED,
        plots=[(title, explained, as_svg(figure, caption)) for figure, caption, (title, _, explained) in captions],
        matrix=shown,
        circumstances=list(_circumstances(report)) if report.results else [],
    )


def study_markdown(report: StudyReport, plots: Mapping[str, tuple[Figure, str]], has_matrix: bool) -> str:
    """For a README or an issue; it shows the plots and images beside it."""
    lines = [f"# Ablation: {report.name}", "", _state(report), ""]
    if report.results:
        lines += _table(_headings(report), _rows(report))
        lines += ["", *(f"- {line}" for line in in_words(report)), ""]
        for title, headings, rows in _beside_baseline(report):
            lines += [f"{title}.", "", *_table(headings, rows), ""]
    for name, of_parts, spread in _spreads(report):
        lines += [f"{_SPREAD} {name}.", "", *_table(of_parts, spread), ""]
    if any(_spreads(report)):
        lines += [_SPREAD_EXPLAINED, ""]
    if report.failures:
        lines += [*(f"- Failed: {trial}: {why}" for trial, why in report.failures.items()), ""]
    for name, (_, caption) in plots.items():
        lines += [f"{caption}.", "", f"![{caption.partition(':')[0]}]({name})", ""]
    if has_matrix:
        lines += [f"{_MATRIX}. {matrix_caption(report)}", "", f"![{_MATRIX}](images.png)", ""]
    if report.results:
        lines += [f"- {name}: {text}" for name, text in _circumstances(report)]
    return "\n".join(lines).rstrip() + "\n"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """In Markdown."""
    rule = "|---" + "|---:" * (len(headings) - 1) + "|"
    return ["| " + " | ".join(headings) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]


def study_csv(report: StudyReport) -> str:
    """One line per trial, all numbers unrounded."""
    keys = [
        "trial", "point", "seed", "score", "score_name", "recognised", "loss", "held_out_loss", "parameters",
        "forward_gflops", "steps", "images", "training_tflops", "seconds", "scoring_seconds", "images_per_second",
        "peak_memory",
    ]  # fmt: skip
    tuned = ["tuned_cfg_scale", "tuned_ema", "tuning_seconds"] if report.is_tuned else []
    settings = list(dict.fromkeys(key for result in report.results for key in result.settings))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, *tuned, *settings])
    for result in report.results:
        found = result.tuned
        of_tuning = [found.chosen.cfg_scale, found.chosen.ema, found.seconds] if found else ["" for _ in tuned]
        of_settings = (_plain(result.settings.get(key, "")) for key in settings)
        writer.writerow([*(getattr(result, key) for key in keys), *of_tuning, *of_settings])
    return text.getvalue()


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | bool) else value


def _by_class(report: StudyReport) -> bool:
    return any(point.recognised is not None for point in report.points)


def _headings(report: StudyReport) -> tuple[str, ...]:
    recognised = ("recognised",) if _by_class(report) else ()
    tuned = ("tuned to",) if report.is_tuned else ()
    return (
        "", "score", *recognised, *tuned, "loss", "seeds", "parameters", "GFLOPs", "steps", "time to train",
        "time to score", "images/s", "memory",
    )  # fmt: skip


def _tuned_to(point: PointResults) -> str:
    """The settings chosen, the most frequent first."""
    found = Counter(tuned.chosen.setting for tuned in point.tuned).most_common()
    if len(found) == 1:
        return found[0][0]
    shown = [f"{setting} ({count})" for setting, count in found[:_MOST_TUNED]]
    return "; ".join([*shown, f"{len(found) - _MOST_TUNED} more"] if len(found) > _MOST_TUNED else shown)


def _rows(report: StudyReport) -> Iterator[tuple[str, ...]]:
    for point in report.points:
        first, flattered = point.first, " (its teacher's own features: not comparable)" * point.own_teacher
        recognised = (str(point.recognised or "") + flattered,) if _by_class(report) else ()
        tuned = (_tuned_to(point),) if report.is_tuned else ()
        yield (
            point.name,
            str(point.score) + flattered,
            *recognised,
            *tuned,
            str(point.estimate("loss")),
            str(len(point.results)),
            f"{first.parameters:,}",
            format_number(first.forward_gflops, 3),
            f"{first.steps:,}",
            format_seconds(point.estimate("seconds").mean),
            format_seconds(point.estimate("scoring_seconds").mean + point.tuning_seconds),
            format_number(point.estimate("images_per_second").mean, 3),
            format_bytes(max(point.by_seed("peak_memory").values())),
        )


def _beside_baseline(report: StudyReport) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, headings, rows) of the table that says whether each point helps; empty without a baseline."""
    found = beside_baseline(report)
    columns: list[tuple[str, list[str]]] = [
        ("", [each.point for each in found]),
        ("", [_in_a_word(each) for each in found]),
        ("score", [_difference(each.score) for each in found]),
        ("recognised, points", [_difference(each.recognised, 100) for each in found]),
        ("held-out loss", [_difference(each.held_out_loss) for each in found]),
        ("images/s", [f"x {each.images_per_second:.2f}" for each in found]),
        ("reported elsewhere", [each.reported for each in found]),
    ]
    shown = [column for number, column in enumerate(columns) if number < 2 or any(column[1])]
    title = f"Each beside {report.baseline}, seed by seed"
    rows = [list(row) for row in zip(*(cells for _, cells in shown), strict=True)]
    return [(title, [heading for heading, _ in shown], rows)] if found else []


def _in_a_word(found: BesideBaseline) -> str:
    if found.verdict != UNTOLD or found.score is None:
        return found.verdict
    if found.score.count < 2:
        return f"{UNTOLD}: one seed"
    return f"{UNTOLD}; {found.seeds_needed:,} seeds would" if found.seeds_needed else found.verdict


def _difference(found: Estimate | None, times: float = 1) -> str:
    return "" if found is None else found.scaled(times).as_difference()


def _spreads(report: StudyReport) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """(point, headings, rows) of each point whose spread is told apart."""
    headings = ("", "seeds", "share", "one more seed costs", "deviation", "varied alone", "bootstrap")
    for point in report.points:
        found = point.components
        if found is None:
            continue
        training = point.estimate("seconds").mean
        scoring = found.samplings * point.set_seconds + point.tuning_seconds
        rows: list[tuple[str, ...]] = []
        for part in found.parts:
            more, cost = found.networks // part.levels, ""
            if part.name == SAMPLING:
                cost = f"{found.networks} sets of samples: {format_seconds(found.networks * point.set_seconds)}"
            elif part.name != TOGETHER:
                times = f"{format_seconds(more * training)} + {format_seconds(more * scoring)}"
                cost = f"{more} network{'s' if more > 1 else ''}: {times}"
            low, high = part.bootstrap
            rows.append(
                (
                    part.name,
                    "" if part.name == TOGETHER else str(part.levels),
                    _with_interval(part.share, percent=True),
                    cost,
                    _with_interval(part.deviation),
                    "" if part.alone is None else _with_interval(part.alone),
                    f"{format_number(low, 3)} to {format_number(high, 3)}",
                )
            )
        yield point.name, headings, rows


def _with_interval(found: Interval, percent: bool = False) -> str:
    def shown(number: float) -> str:
        return f"{number:.0%}" if percent else format_number(number, 3)

    return f"{shown(found.value)} ({shown(found.low)} to {shown(found.high)})"


def _state(report: StudyReport) -> str:
    done = f"{len(report.results)} of {report.trials} trials finished"
    seeds = f"{len(report.seeds)} seed{'s' if len(report.seeds) > 1 else ''}"
    if report.design is not None:
        each = " x ".join(f"{count} of {name}" for name, count in report.design.varied.items())
        seeds = f"{len(report.seeds)} networks a point, all combinations of seeds ({each})"
        seeds += f", each scored with {report.design.sampling} sampling seeds" if report.design.sampling > 1 else ""
    if not report.results:
        return f"{done}; {report.budget}, {seeds}."
    n = report.scored_samples
    return (
        f"{done}; {report.budget}, {seeds}. Score: {report.score_name}, of {n:,} samples, lower is better;"
        f" ± is half a {LEVEL:.0%} interval of the mean over seeds."
    )


def _circumstances(report: StudyReport) -> Iterator[tuple[str, str]]:
    first = report.results[0]
    scored = first.eval
    reference, tuned = scored.reference, first.tuned
    yield "base recipe", report.base
    count = report.design.sampling if report.design is not None else 1
    seeds = f"seed {scored.samples.seed}" if count == 1 else f"seeds 0 to {count - 1}"
    drawn = list(dict.fromkeys(map(_drawn, report.results)))
    more = f"; {len(drawn) - _MOST_TUNED:,} more" if len(drawn) > _MOST_TUNED else ""
    yield "sampling", f"{'; '.join(drawn[:_MOST_TUNED])}{more}; {seeds} in all trials"
    if tuned is not None:
        yield "tuning", f"{_tried(tuned)}: the best for each trial, by {tuned.n:,} samples that no score is of"
    yield "reference", f"{reference.path} (n = {reference.n:,}, sha256 {reference.sha256})"
    yield "features", f"{scored.features}: {scored.network} (weights sha256 {scored.weights_sha256})"
    recognition = scored.recognised
    if recognition is not None:
        real = f"{recognition.held_out.share:.1%} of {recognition.held_out.n:,} held-out real images"
        yield "recognised", f"{recognition.score}: share of samples recognised as the class asked for; {real}"
    yield "loss", "mean over the last tenth of training"
    trained, scored_for, tuned_for = (
        format_seconds(sum(each))
        for each in (
            [result.seconds for result in report.results],
            [result.scoring_seconds + _tuning_seconds(result) for result in report.results],
            [_tuning_seconds(result) for result in report.results],
        )
    )
    yield "time to train", f"of one trial, without scores along the way; {trained} for all"
    and_tuning = f", {tuned_for} of it tuning" if tuned is not None else ""
    yield "time to score", f"to draw and score one trial's samples at the end; {scored_for} for all{and_tuning}"
    yield "memory", "the most that a trial's process held while it trained, scores along the way included"
    environments = {tuple(result.environment.items()) for result in report.results}
    for environment in sorted(environments):
        yield "environment", ", ".join(f"{key} {value}" for key, value in environment)


def _drawn(result: TrialResult) -> str:
    """How its samples were; trials may differ in it."""
    samples = result.eval.samples
    sampler = samples.sampler.name if samples.sampler else "an unknown sampler"
    guidance = f"NFE {samples.nfe}, guidance {samples.cfg_scale}" if result.tuned is None else "tuned"
    return f"{sampler}, {samples.steps} steps, {guidance}"


def _tried(tuned: Tuned) -> str:
    scales = [format_number(scale) for scale in dict.fromkeys(each.cfg_scale for each in tuned.tried)]
    averages = [format_number(ema) for ema in dict.fromkeys(each.ema for each in tuned.tried) if ema is not None]
    return f"guidance {', '.join(scales)}" + (f"; EMA {', '.join(averages)}" if averages else "")


def _tuning_seconds(result: TrialResult) -> float:
    return 0.0 if result.tuned is None else result.tuned.seconds
