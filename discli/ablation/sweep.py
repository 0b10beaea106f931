"""``discli sweep``: a trained run scored over guidance, length of the average and sampling steps.

All settings are scored with the same noise and classes, so that they differ in nothing else. The best is the one that
this very noise flatters most, so it is scored once more with fresh noise, beside the recipe's own setting.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel

from discli.data.contact_sheet import rows_sheet, save_image
from discli.evaluation.evaluate import evaluate
from discli.evaluation.sampled import SampledImages
from discli.recipe.train import WIDEST_STD
from discli.reports.plots import Map, heat_maps, save_plot
from discli.runs.checkpoint import newest_checkpoint
from discli.runs.eval_result import EvalResult, read_eval_result
from discli.runs.layout import EMA, RunFolder, find_run
from discli.runtime.console import format_seconds, stderr
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.runtime.files import sha256_of, to_json, write_text
from discli.runtime.numbers import format_number
from discli.sampling.load import LoadedModel, load
from discli.sampling.sample import sample
from discli.sampling.settings import SampleSettings, settle_settings
from discli.training.posthoc_ema import posthoc_ema

RESULT, MAP, IMAGES = "sweep.json", "map.png", "images.png"
_SEED, _FRESH = 0, 1  # of what chooses, and of what confirms
_STRIP = 10  # images of each setting in the picture
_MOST_STRIPS = 60


class SweptScore(BaseModel):
    """One setting and its score; ``ema`` is the relative width of the average, None the run's own."""

    cfg_scale: float
    ema: float | None
    steps: int
    nfe: int  # network calls an image
    score: float

    def describe(self) -> str:
        average = "" if self.ema is None else f", EMA {self.ema:g}"
        return f"guidance {self.cfg_scale:g}{average}, {self.steps} steps"


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
    """Scores every combination, writes sweep.json, a map and a picture into ``out`` (default RUN/sweep).

    An empty list leaves that setting as the run has it. Scores lie in ``out``/scores by what they depend on, and are
    not computed twice. Raises DiscliError, before the first score, for what the run cannot do: other guidance where
    there are no classes, another average where no snapshots were kept (``train.ema = "power"``).
    """
    run = find_run(run)
    wrong = next((std for std in ema if not 0 < std < WIDEST_STD), None)
    if wrong is not None:
        raise DiscliError(f"--ema {wrong:g} is out of range: it must be between 0 and 0.288.", "Such as 0.05:0.2.")
    loaded = load(run, device)
    own = loaded.recipe.sample
    folder = Path(out) if out is not None else run / "sweep"
    averaged: list[float | None] = [*ema] or [None]
    grid = list(itertools.product(averaged, cfg_scale or (own.cfg_scale,), steps or (own.steps,)))
    if len(grid) < 2:
        raise DiscliError("Nothing to sweep: one setting alone.", "Example: --cfg-scale 1:4 --steps 10,20,50")
    for _, scale, count in grid:
        settle_settings(loaded.recipe, SampleSettings(cfg_scale=scale, steps=count))
    averages = {None: loaded} | {std: load(_average(run, std, folder), device) for std in ema}
    scorer = _Scorer(folder, averages, n, features, ref, device)
    stderr.print(f"{len(grid)} settings of {run}, {n:,} samples of each, with the same noise")

    scores = []
    for number, (std, scale, count) in enumerate(grid, start=1):
        result = scorer.score(std, scale, count, _SEED)
        scores.append(_swept(std, scale, count, result))
        took = format_seconds(result.seconds) if scorer.new else "kept"
        stderr.print(f"{number}/{len(grid)} {scores[-1].describe()}: {format_number(scores[-1].score)} ({took})")
    best = min(scores, key=lambda each: each.score)
    stderr.print(f"Best: {best.describe()}; scored again with fresh noise, beside the recipe's own setting")
    confirmed = scorer.score(best.ema, best.cfg_scale, best.steps, _FRESH)
    theirs = _swept(None, own.cfg_scale, own.steps, scorer.score(None, own.cfg_scale, own.steps, _FRESH))
    fresh = _swept(best.ema, best.cfg_scale, best.steps, confirmed).score
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
    save_image(rows_sheet([scorer.strip(each) for each in scores[:_MOST_STRIPS]]), folder / IMAGES)
    return found


class _Scorer:
    """Scores and strips of settings, kept in a folder by all that they depend on but where it lies."""

    def __init__(
        self,
        folder: Path,
        averages: dict[float | None, LoadedModel],
        n: int,
        features: str,
        ref: str | Path | None,
        device: str | None,
    ) -> None:
        self._folder, self._averages, self._n, self._features, self._ref = folder, averages, n, features, ref
        self._device = pick_device(device)
        self._weights: dict[Path, str] = {}
        self.new = False  # whether the last score was computed now
        (folder / "scores").mkdir(parents=True, exist_ok=True)

    def score(self, std: float | None, scale: float, steps: int, seed: int) -> EvalResult:
        images = self._images(std, scale, steps, seed)
        images.take(self._n)
        path = self._folder / "scores" / f"{self._key(images)}.json"
        self.new = not path.exists()
        if not self.new:
            return read_eval_result(path)
        result = evaluate(images, self._ref, features=self._features, n=self._n, bootstrap=0, device=str(self._device))
        write_text(path, to_json(result))
        return result

    def strip(self, of: SweptScore) -> tuple[str, torch.Tensor]:
        """A setting's name and its first images, (k, 3, H, W) uint8: in all settings of the same noise and classes."""
        key = self._key(self._images(of.ema, of.cfg_scale, of.steps, _SEED))
        path = self._folder / "scores" / f"{key}.png"
        model = self._averages[of.ema]
        side = model.contract.resolution
        if not path.exists():
            classes = "balanced" if model.recipe.model.num_classes else "random"
            pixels = sample(
                model, _STRIP, classes=classes, cfg_scale=of.cfg_scale, steps=of.steps, device=str(self._device)
            ).pixels
            save_image(Image.fromarray(pixels.permute(2, 0, 3, 1).flatten(1, 2).contiguous().numpy()), path)
        with Image.open(path) as image:
            strip = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
        return of.describe(), torch.stack(strip.split(side, dim=1)).permute(0, 3, 1, 2)

    def _images(self, std: float | None, scale: float, steps: int, seed: int) -> SampledImages:
        settings = SampleSettings(cfg_scale=scale, steps=steps)
        return SampledImages(self._averages[std], self._device, settings, seed)

    def _key(self, images: SampledImages) -> str:
        made = images.manifest
        checkpoint = Path(made.checkpoint)
        if checkpoint not in self._weights:
            file = checkpoint / f"{EMA}.safetensors"
            self._weights[checkpoint] = sha256_of(file if file.exists() else checkpoint)
        reference = Path(self._ref or made.data_file or "")
        changed = reference.stat().st_mtime_ns if reference.exists() else 0
        about = made.model_dump(mode="json", exclude={"run", "checkpoint", "data_file"})
        about |= {
            "weights": self._weights[checkpoint],
            "features": self._features,
            "reference": str(reference.resolve()),
        }
        return hashlib.sha256(json.dumps([about, changed], sort_keys=True).encode()).hexdigest()[:24]


def _average(run: Path, std: float, folder: Path) -> Path:
    """A run of the average of this width, from the run's snapshots; made once."""
    out = folder / f"ema-{std:g}"
    snapshots = RunFolder(run).find_snapshots()
    made = newest_checkpoint(out)
    if made is not None and snapshots and int(made.name) == max(step for step, _ in snapshots):
        return out
    return posthoc_ema(run, std, out=out)


def _swept(std: float | None, scale: float, steps: int, result: EvalResult) -> SweptScore:
    assert result.distance is not None
    return SweptScore(cfg_scale=scale, ema=std, steps=steps, nfe=result.samples.nfe or steps, score=result.distance)


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
    ranges: tuple[tuple[str, Callable[[SweptScore], float | None]], ...] = (
        ("guidance", lambda each: each.cfg_scale), ("EMA", lambda each: each.ema), ("steps", lambda each: each.steps)
    )  # fmt: skip
    for what, of in ranges:
        values = sorted({value for each in scores if (value := of(each)) is not None})
        if len(values) > 1 and (at := of(best)) in (values[0], values[-1]):
            lines.append(
                f"{what} {at:g} is the {'lowest' if at == values[0] else 'highest'} tried: there may be better."
            )
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
