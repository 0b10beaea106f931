"""Whether a run underfits, generalises or memorises: its losses on trained and held-out samples, and the floor.

Three sets of numbers at each noise level: the loss on samples that were trained on, the loss on samples that never
were, and the floor, the lowest that any network reaches on the training samples (`discli.diffusion.optimal`). The
network that reaches it everywhere is the posterior mean over the training images: it can do nothing but repeat them.
So the first two say whether the network knows more of its images than of others; the third how much is left to learn
where the floor is no memory of single images, at high noise.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from pydantic import BaseModel

from discli.data.floor_file import Floor, FloorOf, check_floor, find_floor, read_floor
from discli.data.store import open_store
from discli.recipe.data_files import are_there
from discli.reports.plots import SMALL, Line, as_svg, curves
from discli.runs.logs import Lines, is_finite
from discli.runs.status import RunStatus
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError
from discli.runtime.numbers import format_number

Measured = Mapping[str, Any]  # of holdout.jsonl
Kind = Literal["underfitting", "generalising", "memorising"]

_CERTAIN = 3.0  # standard errors, beyond which a difference is one
_CLEAR = 0.05  # of the held-out loss: a smaller difference, however certain, is not worth acting on
_FALLING = 0.02  # of the loss, over the last third of the steps
_MISFIT = 0.05  # of the floor, where the floor is most of the loss
_MOST_OF_IT = 0.8  # of a difference, whose noise levels are named
_Z95 = 1.96


class LossGap(BaseModel):
    """How far the loss on trained samples is above the floor, a mean over training's timesteps; 95% interval."""

    gap: float
    low: float
    high: float


class Fit(BaseModel):
    """What a run's losses say. ``since``: the step from which on. ``best``: of the lowest held-out loss."""

    kind: Kind
    sentence: str
    since: int
    step: int
    best: int
    loss_train: float
    loss_held_out: float
    floor: float | None
    loss_gap: LossGap | None
    noise: tuple[float, float] | None  # sigma, between which most of it is


def floor_of_run(run: RunStatus, file: Path | None = None) -> Floor | None:
    """What ``discli floor RUN`` left beside the run's data, or ``file``; None where there is neither.

    Raises DiscliError for a ``file`` that is not this run's floor.
    """
    lines = [line for line in run.logs["holdout"] if _whole(line)]
    if not lines or run.recipe is None or run.description is None:
        if file is not None:
            raise DiscliError(f"{run.folder} has no losses to compare with {file}.", "Train with data.holdout above 0.")
        return None
    of = FloorOf.recipe(run.recipe, lines[-1]["sigma"])
    if file is not None:
        floor = read_floor(file)
        check_floor(floor, file, of, run.description.read_contract(str(run.folder)))
        return floor
    if run.data_file is None or not are_there(run.data_file):
        return None
    try:
        return find_floor(open_store(run.data_file), of)
    except DiscliError as error:  # costs a curve, not the page
        stderr.print(f"No floor: {error}", style="yellow")
        return None


def fit_of(lines: Lines, floor: Floor | None = None) -> Fit | None:
    """Of the lines of holdout.jsonl; None where there is none that can be read."""
    lines = [line for line in lines if _whole(line)]
    if not lines:
        return None
    last = lines[-1]
    kind, since, sentence, noise = _verdict(lines, floor)
    best = min(lines, key=lambda line: line["loss_held_out"])
    gap = loss_gap(last, floor) if floor else None
    return Fit(
        kind=kind,
        sentence=sentence,
        since=since,
        step=last["step"],
        best=best["step"],
        loss_train=last["loss_train"],
        loss_held_out=last["loss_held_out"],
        floor=last["loss_train"] - gap.gap if gap else None,
        loss_gap=gap,
        noise=noise,
    )


def loss_gap(line: Measured, floor: Floor) -> LossGap:
    """Of one line of holdout.jsonl."""
    at = floor_levels(line, floor)
    mass: list[float] = line["mass"]
    least = math.fsum(m * value for m, (value, _) in zip(mass, at, strict=True))
    doubt = math.fsum((m * se) ** 2 for m, (_, se) in zip(mass, at, strict=True))
    gap, error = line["loss_train"] - least, math.sqrt(doubt + line["loss_train_se"] ** 2)
    return LossGap(gap=gap, low=gap - _Z95 * error, high=gap + _Z95 * error)


def floor_levels(line: Measured, floor: Floor) -> list[tuple[float, float]]:
    """(lowest loss, its standard error) at the line's noise levels, in training's own units."""
    at = zip(line["floor_scale"], floor.at(line["sigma"]), strict=True)
    return [(scale * error, scale * doubt) for scale, (error, doubt) in at]


def _verdict(lines: Lines, floor: Floor | None) -> tuple[Kind, int, str, tuple[float, float] | None]:
    last = lines[-1]
    ahead = _last_in_a_row([_memorises(line) for line in lines])
    if ahead is not None:
        share = last["loss_held_out"] / last["loss_train"] - 1
        noise = _where(last, [h - t for h, t in zip(last["levels_held_out"], last["levels_train"], strict=True)])
        best = min(lines, key=lambda line: line["loss_held_out"])
        rose = last["loss_held_out"] - best["loss_held_out"] > _FALLING * best["loss_held_out"]
        advice = (
            f"The held-out loss was lowest at step {best['step']:,}, and has risen by"
            f" {last['loss_held_out'] / best['loss_held_out'] - 1:.0%} since: stop there, or give it more images,"
            " mirror images or a smaller network."
            if rose
            else "The held-out loss is not rising yet: go on while it falls, and give it more images rather than steps."
        )
        since = lines[ahead]["step"]
        paired = _ahead(last) / last["loss_held_out"]
        how = f"the loss on held-out samples is {share:.0%} above that on trained ones"
        if paired > share:
            how = (
                f"since step {lines[0]['step']:,} the loss on trained samples has fallen by {paired:.0%} of the"
                " held-out one more than that"
            )
        text = f"Memorising since step {since:,}: {how}, most of it at noise levels {_range(noise)}. {advice}"
        return "memorising", since, text, noise

    alike = "The losses on trained and held-out samples are alike"
    misfit = _misfit(last, floor) if floor else None
    before = _two_thirds(lines)
    fell = before["loss_train"] / last["loss_train"] - 1
    if fell > _FALLING or before is last:
        noise = _where(last, [b - t for b, t in zip(before["levels_train"], last["levels_train"], strict=True)])
        how = (
            f"still falling, by {fell:.0%} since step {before['step']:,}" if before is not last else "of one step only"
        )
        where = f", most of it at noise levels {_range(noise)}" if noise else ""
        text = f"Underfitting: {alike[0].lower() + alike[1:]}, and {how}{where}. Train longer."
        return "underfitting", lines[0]["step"], text, noise
    if misfit is not None:
        share, noise = misfit
        text = (
            f"Underfitting: {alike[0].lower() + alike[1:]} and no longer falling, but {share:.0%} above the floor at"
            f" noise levels {_range(noise)}, where no image can be told from the others. Take a larger network, or"
            " another learning rate."
        )
        return "underfitting", lines[0]["step"], text, noise
    settled = next(line["step"] for line in lines if line["loss_train"] <= (1 + _FALLING) * last["loss_train"])
    text = (
        f"Generalising since step {settled:,}: {alike[0].lower() + alike[1:]} and no longer falling. Stop here, or take"
        " a larger network for a lower loss."
    )
    return "generalising", settled, text, None


def _memorises(line: Measured) -> bool:
    """By the two losses, or by how they have fallen since they were first measured, which knows of easy samples."""
    more: float = line["loss_held_out"] - line["loss_train"]
    doubt = math.hypot(line["loss_train_se"], line["loss_held_out_se"])
    clear = _CLEAR * float(line["loss_held_out"])
    return more > max(_CERTAIN * doubt, clear) or _ahead(line) > max(_CERTAIN * line.get("ahead_se", 0.0), clear)


def _ahead(line: Measured) -> float:
    """0 where it is not known: at the first measurement, and in a line that somebody has edited."""
    numbers = line.get("ahead"), line.get("ahead_se")
    return float(numbers[0]) if all(is_finite(number) for number in numbers) else 0.0  # type: ignore[arg-type]


def _last_in_a_row(flags: Sequence[bool]) -> int | None:
    """Where the run of true ones begins that ends the list."""
    place = len(flags)
    while place > 0 and flags[place - 1]:
        place -= 1
    return place if place < len(flags) else None


def _two_thirds(lines: Lines) -> Measured:
    wanted = 2 * lines[-1]["step"] / 3
    return min(lines, key=lambda line: abs(line["step"] - wanted))


def _misfit(line: Measured, floor: Floor) -> tuple[float, tuple[float, float]] | None:
    """How far above the floor, relative to it, where it is most of the loss; and between which noise levels."""
    least = floor_levels(line, floor)
    there = [value > line["levels_train"][k] / 2 for k, (value, _) in enumerate(least)]
    gaps = [(t - value) * flag for t, (value, _), flag in zip(line["levels_train"], least, there, strict=True)]
    mass = line["mass"]
    total = math.fsum(m * value for m, (value, _), flag in zip(mass, least, there, strict=True) if flag)
    above = math.fsum(m * gap for m, gap in zip(mass, gaps, strict=True))
    errors = zip(mass, least, line["levels_train_se"], there, strict=True)
    doubt = math.sqrt(math.fsum((m * math.hypot(se, own)) ** 2 for m, (_, se), own, flag in errors if flag))
    noise = _where(line, gaps)
    if not total or above < _CERTAIN * doubt or above < _MISFIT * total or noise is None:
        return None
    return above / total, noise


def _where(line: Measured, differences: Sequence[float]) -> tuple[float, float] | None:
    """The noise levels between which most of a difference lies; None where there is no difference."""
    parts = [max(0.0, m * d) for m, d in zip(line["mass"], differences, strict=True)]
    total, chosen = math.fsum(parts), set[int]()
    if total <= 0:
        return None
    for place in sorted(range(len(parts)), key=lambda k: -parts[k]):
        chosen.add(place)
        if math.fsum(parts[k] for k in chosen) >= _MOST_OF_IT * total:
            break
    return line["sigma"][min(chosen)], line["sigma"][max(chosen)]


def _range(noise: tuple[float, float] | None) -> str:
    return "of all kinds" if noise is None else f"{format_number(noise[0], 2)} to {format_number(noise[1], 2)}"


def _whole(line: Measured) -> bool:
    """Whether a line has all that is drawn and judged: somebody may have edited it."""
    size = line.get("sigma")
    if not isinstance(size, list) or not size:
        return False
    sets = [f"{name}{end}" for name in ("train", "held_out") for end in ("", "_se")]
    lists = ["sigma", "mass", "floor_scale", *(f"levels_{name}" for name in sets)]
    numbers: list[Any] = [line.get(f"loss_{name}") for name in sets]
    for key in lists:
        values = line.get(key)
        if not isinstance(values, list) or len(values) != len(size):
            return False
        numbers += values
    # Losses and noise levels of 0 have no logarithm; the rest may be 0.
    above: list[Any] = [line.get(f"loss_{name}") for name in ("train", "held_out")]
    above += [value for key in ("sigma", "levels_train", "levels_held_out") for value in line[key]]
    return all(is_finite(value) and value >= 0 for value in numbers) and min(above) > 0


def fit_plots(lines: Lines, floor: Floor | None) -> list[tuple[str, str]]:
    """(caption, SVG): by noise level at the last step, and over the steps; with the floor where it is known."""
    lines = [line for line in lines if _whole(line)]
    if not lines:
        return []
    last = lines[-1]
    found = [(f"Loss by noise level, step {last['step']:,}", _by_noise(last, floor))]
    if len(lines) > 1:
        found.append(("Loss on trained and held-out samples", _over_steps(lines, floor)))
    return [(caption, as_svg(figure, caption)) for caption, figure in found]


def _by_noise(line: Measured, floor: Floor | None) -> Figure:
    drawn = [_band("trained on", line["sigma"], line["levels_train"], line["levels_train_se"])]
    drawn.append(_band("held out", line["sigma"], line["levels_held_out"], line["levels_held_out_se"]))
    if floor is not None:
        least = [value for value, _ in floor_levels(line, floor)]
        # Far below the others it would squeeze them; what is as good as 0 is not drawn.
        lowest = min(drawn[0].y) / 10
        shown = [(s, v) for s, v in zip(line["sigma"], least, strict=True) if v >= lowest]
        drawn.append(Line("floor", [s for s, _ in shown], [v for _, v in shown]))
    return curves(drawn, "noise level, s / a", "", log_y=True, size=SMALL, log_x=True)


def _over_steps(lines: Lines, floor: Floor | None) -> Figure:
    steps = [line["step"] for line in lines]
    drawn = [
        _band(name, steps, [line[f"loss_{key}"] for line in lines], [line[f"loss_{key}_se"] for line in lines])
        for name, key in (("trained on", "train"), ("held out", "held_out"))
    ]
    if floor is not None:
        least = lines[-1]["loss_train"] - loss_gap(lines[-1], floor).gap
        drawn.append(Line("floor", [steps[0], steps[-1]], [least, least]))
    return curves(drawn, "step", "", size=SMALL, from_zero=True)


def _band(name: str, x: Sequence[float], y: Sequence[float], error: Sequence[float]) -> Line:
    low = [max(v - _Z95 * e, v / 10) for v, e in zip(y, error, strict=True)]
    return Line(name, x, y, low, [v + _Z95 * e for v, e in zip(y, error, strict=True)])
