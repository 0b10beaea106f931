"""``discli sweep``: a trained run scored over guidance, length of the average and sampling steps.

All settings are scored with the same noise and classes, so that they differ in nothing else. The best is the one that
this very noise flatters most, so it is scored once more with fresh noise, beside the recipe's own setting.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel

from discli.ablation.scorer import Scorer, SweptScore, at_edges, read_strip, swept
from discli.data.contact_sheet import rows_sheet, save_image
from discli.recipe.train import WIDEST_STD
from discli.reports.plots import Map, heat_maps, save_plot
from discli.runs.eval_result import EvalResult
from discli.runs.layout import find_run, is_run, run_of
from discli.runtime.console import format_seconds, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.files import to_json, write_text
from discli.runtime.numbers import format_number
from discli.sampling.settings import SampleSettings, settle_settings

RESULT, MAP, IMAGES = "sweep.json", "map.png", "images.png"
_SEED, _FRESH = 0, 1  # of what chooses, and of what confirms
_STRIP = 10  # images of each setting in the picture
_MOST_STRIPS = 60


class Sweep(BaseModel):
    """``sweep.json``: every setting's score, and the best of them on fresh samples."""

    format: Literal[1] = 1
    run: str
    step: int
    score_name: str
    n: int  # samples of each
    seed: int = _SEED
    fresh_seed: int = _FRESH
    scores: tuple[SweptScore, ...]
    best: SweptScore
    best_fresh: float  # its score by samples that had no part in choosing it
    own: SweptScore  # the recipe's own setting by fresh samples
    in_words: tuple[str, ...]


def sweep(
    run: str | Path,
    *,
    cfg_scale: Sequence[float] = (),
    ema: Sequence[float] = (),
    steps: Sequence[int] = (),
    n: int = 1_000,
    features: str = "inception",
    ref: str | Path | None = None,
    out: str | Path | None = None,
    device: str | None = None,
) -> Sweep:
    """Scores every combination, writes sweep.json, a map and a picture into ``out``.

    ``out`` is RUN/sweep by default, of a model that is in no run MODEL-sweep in the current folder.

    An empty list leaves that setting as the run has it. Scores lie in ``out``/scores by what they depend on, and are
    not computed twice. Raises DiscliError, before the first score, for what the run cannot do: other guidance where
    there are no classes, another average where no snapshots were kept (``train.ema = "power"``).
    """
    run = find_run(run)
    wrong = next((std for std in ema if not 0 < std < WIDEST_STD), None)
    if wrong is not None:
        raise DiscliError(f"--ema {wrong:g} is out of range: it must be between 0 and 0.288.", "Such as 0.05:0.2.")
    home = run_of(run)  # a checkpoint may be deleted, and a model's file is no folder
    folder = Path(out or (home / "sweep" if is_run(home) else f"{run.stem}-sweep"))
    scorer = Scorer(folder, run, features=features, ref=ref, device=device)
    loaded = scorer.model(None)
    own = loaded.recipe.sample
    averaged: list[float | None] = [*ema] or [None]
    grid = list(itertools.product(averaged, cfg_scale or (own.cfg_scale,), steps or (own.steps,)))
    if len(grid) < 2:
        raise DiscliError("Nothing to sweep: one setting alone.", "Example: --cfg-scale 1:4 --steps 10,20,50")
    for _, scale, count in grid:
        settle_settings(loaded.recipe, SampleSettings(cfg_scale=scale, steps=count))
    for std in averaged:
        scorer.model(std)  # what cannot be had is refused before the first score
    stderr.print(f"{len(grid)} settings of {run}, {n:,} samples of each, with the same noise")

    def score(std: float | None, scale: float, count: int, seed: int) -> EvalResult:
        return scorer.score(std, SampleSettings(cfg_scale=scale, steps=count), n, seed)

    scores = []
    for number, (std, scale, count) in enumerate(grid, start=1):
        result = score(std, scale, count, _SEED)
        scores.append(_swept(std, result))
        took = format_seconds(result.seconds) if scorer.new else "kept"
        stderr.print(f"{number}/{len(grid)} {scores[-1].describe()}: {format_number(scores[-1].score)} ({took})")
    best = min(scores, key=lambda each: each.score)
    stderr.print(f"Best: {best.describe()}; scored again with fresh noise, beside the recipe's own setting")
    confirmed = score(best.ema, best.cfg_scale, best.steps, _FRESH)
    theirs = _swept(None, score(None, own.cfg_scale, own.steps, _FRESH))
    fresh = _swept(best.ema, confirmed).score
    found = Sweep(
        run=str(run),
        step=confirmed.samples.step or loaded.step,
        score_name=_name(confirmed),
        n=n,
        scores=tuple(scores),
        best=best,
        best_fresh=fresh,
        own=theirs,
        in_words=tuple(_in_words(scores, best, fresh, theirs, _name(confirmed))),
    )
    write_text(folder / RESULT, to_json(found))
    save_plot(heat_maps(_maps(found), "guidance", _rows_label(found), found.score_name), folder / MAP)
    strips = [
        (each.describe(), scorer.strip(each.ema, SampleSettings(cfg_scale=each.cfg_scale, steps=each.steps), _STRIP))
        for each in scores[:_MOST_STRIPS]
    ]
    save_image(
        rows_sheet([(name, read_strip(path, loaded.contract.resolution)) for name, path in strips]), folder / IMAGES
    )
    return found


def _swept(std: float | None, result: EvalResult) -> SweptScore:
    assert result.distance is not None
    return swept(std, result, result.distance)


def _name(result: EvalResult) -> str:
    """Without its warning that it is no FID, which the features say too."""
    return next(name for name, value in result.scores.items() if value == result.distance).partition(",")[0]


def _in_words(scores: Sequence[SweptScore], best: SweptScore, fresh: float, own: SweptScore, name: str) -> list[str]:
    lines = [
        f"Best of {len(scores)}: {best.describe()}, {name} = {format_number(best.score)};"
        f" {format_number(fresh)} by fresh samples, which had no part in choosing it.",
    ]
    if best.describe() == own.describe():
        lines.append("That is the recipe's own setting.")
    else:
        theirs = format_number(own.score)
        lines.append(f"The recipe's own setting ({own.describe()}): {theirs} by the same fresh samples.")
        if own.score <= fresh:
            lines.append("That is no worse: the best was the best by chance.")
    lines += [f"{edge}: there may be better." for edge in at_edges(best, scores)]
    return lines


def _maps(found: Sweep) -> list[Map]:
    """Guidance by the averages, with a map for each number of steps; without averages guidance by steps."""
    by_ema = len({each.ema for each in found.scores}) > 1
    scales = sorted({each.cfg_scale for each in found.scores})
    maps = []
    for rest in sorted({each.steps for each in found.scores}) if by_ema else [None]:
        chosen = [each for each in found.scores if rest is None or each.steps == rest]
        rows: list[float] = sorted({_row(each, by_ema) for each in chosen})
        values = [
            [next(each.score for each in chosen if (each.cfg_scale, _row(each, by_ema)) == (s, row)) for s in scales]
            for row in rows
        ]
        maps.append(Map("" if rest is None else f"{rest} steps", scales, rows, values))
    return maps


def _row(each: SweptScore, by_ema: bool) -> float:
    return float(each.steps if not by_ema or each.ema is None else each.ema)


def _rows_label(found: Sweep) -> str:
    return "EMA, relative width" if len({each.ema for each in found.scores}) > 1 else "steps"


def parse_counts(text: str, flag: str) -> list[int]:
    """As `parse_values`, of whole numbers from 1: a range is rounded to them, a list has to be of them."""
    values = parse_values(text, flag)
    if min(values) < 0.5 or (":" not in text and any(value != round(value) for value in values)):
        raise DiscliError(f"{flag} {text}: whole numbers from 1 on.", f"Example: {flag} 10,20,50, or 10:50.")
    return sorted({round(value) for value in values})


def parse_values(text: str, flag: str, count: int = 5) -> list[float]:
    """``1:4`` as ``count`` numbers from 1 to 4, ``1:4:7`` as seven, ``1,2.5,4`` as those, each once and in order.

    Raises DiscliError for what is none of these.
    """
    try:
        parts = text.split(":")
        if len(parts) in (2, 3):
            low, high, number = float(parts[0]), float(parts[1]), int(parts[2]) if len(parts) == 3 else count
            if not low < high or not 2 <= number <= 100:
                raise ValueError
            values = [float(f"{value:.6g}") for value in np.linspace(low, high, number)]
        else:
            values = [float(part) for part in text.split(",")]
        if not all(np.isfinite(values)) or min(values) < 0:
            raise ValueError
    except ValueError:
        raise DiscliError(
            f"{flag} {text}: not understood.", f"Example: {flag} 1:4 (five values), 1:4:7 (seven), or 1,2.5,4."
        ) from None
    return sorted({*values})
