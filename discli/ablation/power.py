"""What a study can show, before it is run: the power of its seeds for a difference between two of its points."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from discli.ablation.gaps import gap
from discli.ablation.results import PointResults
from discli.ablation.trial import RESULT, scored_by
from discli.ablation.trial_result import TrialResult, read_trial_result
from discli.recipe import Study
from discli.recipe.seeds import SOURCES
from discli.recipe.study import Power, SeedDesign
from discli.reports.chance import POWER, least_gap, power, seeds_needed
from discli.reports.components import SAMPLING, TOGETHER, Components, components, error_of_mean, freedom_of_mean
from discli.runtime.errors import DiscliError

# "The FID Lottery" (arXiv:2606.20536) found 1 to 2% over trainings, and 3.2 times the deviation over samplings.
_CV, _TRAINING_TO_SAMPLING = 0.015, 3.2
_STATED = "as FIDs do in The FID Lottery (arXiv:2606.20536): 1 to 2%"
_LARGEST_DESIGN = 64  # seeds of each source


class StudyPower(BaseModel):
    """What a study's seeds can show; differences and deviations are parts of the score."""

    networks: int  # of each point
    deviation: float  # of one seed's difference between two points
    source: str  # where that is from
    least_difference: float | None  # that is shown four times in five; None: nothing is
    difference: float | None  # asked for
    power: float | None  # for that
    seeds_needed: int | None  # for that
    in_words: str


@dataclass(frozen=True)
class _Spread:
    """Variances of a difference between two points, relative to the score's square: by source, and where they are from.

    ``parts`` are of init, order, noise, what they do together, and sampling.
    """

    parts: dict[str, float]
    source: str

    @property
    def deviation(self) -> float:
        return math.sqrt(sum(self.parts.values()))


def plan_power(study: Study) -> StudyPower:
    """Raises DiscliError where the earlier study that it names has no trials to learn from."""
    asked, spread = study.power, _spread_of(study)
    noise, freedom = _error(study.design, len(study.trainings), spread)
    least, networks = least_gap(noise, freedom), len(study.trainings)
    wanted = asked.difference if asked is not None else None
    points = "" if study.axes or study.points else " such"  # this one's, and one of another study
    said = [
        f"Power: with {networks} {'networks' if study.design else 'seeds'} a point,"
        + (
            f" a difference of {least:.2g} of the score between two{points} points is shown four times in five"
            if math.isfinite(least)
            else " no difference can be told from chance"
        )
        + f"; one seed's difference has a deviation of {spread.deviation:.2g} ({spread.source})."
    ]
    if wanted is not None:
        said.append(f"One of {wanted:.2g} is shown with probability {power(wanted, noise, freedom):.2f}.")
    return StudyPower(
        networks=networks,
        deviation=spread.deviation,
        source=spread.source,
        least_difference=least if math.isfinite(least) else None,
        difference=wanted,
        power=None if wanted is None else power(wanted, noise, freedom),
        seeds_needed=None if wanted is None else seeds_needed(wanted, spread.deviation),
        in_words=" ".join(said),
    )


def check_power(study: Study) -> None:
    """Raises DiscliError for a study that is too small for the difference that it is to find."""
    if study.power is None:
        return
    found = plan_power(study)
    assert found.power is not None
    if found.power >= POWER:
        return
    sizes = [] if found.seeds_needed is None else [f"seeds = [0, ..., {found.seeds_needed - 1}]"]
    design = study.design
    if design is not None and (enough := _enough(design, study.power.difference, _spread_of(study))) is not None:
        told = ", ".join(f"{name} = {getattr(enough, name)}" for name in (*design.varied, SAMPLING))
        sizes.insert(0, f"seeds = {{ {told} }}")
    raise DiscliError(
        f"{study.name} is too small for its question: {found.networks} {'networks' if design else 'seeds'} a point show"
        f" a difference of {study.power.difference:.2g} of the score with probability {found.power:.2f} (deviation of"
        f" one seed's difference: {found.deviation:.2g}, {found.source}).",
        f"Enough, four times in five: {' or '.join(sizes)}." if sizes else "Ask for a larger power.difference.",
    )


def _enough(design: SeedDesign, difference: float, spread: _Spread) -> SeedDesign | None:
    """The smallest design, with as many seeds more for each source that varies, that shows ``difference``."""
    for size in range(min(design.varied.values()), _LARGEST_DESIGN + 1):
        levels = {name: max(size, count) for name, count in design.varied.items()}
        larger = design.model_copy(update=levels)
        if power(difference, *_error(larger, math.prod(larger.levels), spread)) >= POWER:
            return larger
    return None


def _error(design: SeedDesign | None, seeds: int, spread: _Spread) -> tuple[float, float]:
    """Standard error of a mean of differences, and its degrees of freedom."""
    if design is None:
        return spread.deviation / math.sqrt(seeds), seeds - 1
    sizes = list(design.varied.values())
    # A source that does not vary is the same on both sides of every difference.
    own = [spread.parts[name] for name in design.varied]
    together, of_sampling = spread.parts[TOGETHER], spread.parts[SAMPLING]
    if design.sampling == 1:  # all that is said is of these samples' noise: another share of each network's own
        together, of_sampling = together + of_sampling, 0.0
    error = error_of_mean(sizes, design.sampling, [*own, together], of_sampling)
    freedom = [*(size - 1 for size in sizes), math.prod(size - 1 for size in sizes), max(1, design.sampling - 1)]
    parts = [variance / size for variance, size in zip(own, sizes, strict=True)]
    parts += [together / math.prod(sizes), of_sampling / design.sampling]
    return error, freedom_of_mean(sizes, np.array(parts), np.array(freedom, dtype=float))


def _spread_of(study: Study) -> _Spread:
    asked = study.power or Power(difference=1.0)
    if asked.earlier is not None:
        return _learned(Path(asked.earlier), study.score.by)
    cv = asked.cv or _CV
    of_sampling = 1 / (1 + _TRAINING_TO_SAMPLING**2)
    # Nothing is known of the three, nor of what pairing by seed will save: equal parts, and two networks' variances.
    parts = dict.fromkeys(SOURCES, (1 - of_sampling) / 3) | {TOGETHER: 0.0, SAMPLING: of_sampling}
    source = f"scores that vary by {cv:.2g}, {'as stated' if asked.cv else _STATED}"
    return _Spread({name: 2 * cv**2 * share for name, share in parts.items()}, source)


def _learned(folder: Path, by: str) -> _Spread:
    """From an earlier study's trials: of the differences between its points, or twice its one point's scores."""
    found: dict[str, list[TrialResult]] = {}
    for path in sorted(folder.glob(f"trials/**/{RESULT}")):
        result = read_trial_result(path)
        if scored_by(result) != by:
            raise DiscliError(
                f"power.earlier: {folder} was scored by {scored_by(result)}, this study is by {by}.",
                "Scores of another kind spread otherwise: give a study of the same, or power.cv.",
            )
        found.setdefault(result.point, []).append(result)
    points = [PointResults(name, results, _design_of(results)) for name, results in found.items()]
    points = [point for point in points if len(point.results) > 1]
    if not points:
        raise DiscliError(
            f"power.earlier: {folder} has no point with two finished trials.", "Give a study's folder, or power.cv."
        )
    scale = float(np.mean([point.score.mean for point in points])) ** 2
    if scale == 0:
        raise DiscliError(
            f"power.earlier: all scores in {folder} are 0, of which no difference is a part.",
            "Give another study's folder, or power.cv.",
        )
    where = f"of the trials in {folder}"
    pairs = list(itertools.combinations(points, 2))
    crossed = [
        components(a.grid - b.grid, list(a.design.varied))
        for a, b in pairs
        if a.grid is not None and b.grid is not None and a.design and a.design == b.design
    ]
    alone = [point.components for point in points if point.components is not None]
    if crossed or alone:
        return _Spread(_parts(crossed or alone, 1 if crossed else 2, scale), where)
    gaps = [each.noise**2 for a, b in pairs if (each := gap(a, b)) is not None]
    gaps = gaps or [2 * float(np.var(list(point.by_seed("score").values()), ddof=1)) for point in points]
    total = float(np.mean(gaps)) / scale
    # Of seeds that were not told apart only the sum is known.
    return _Spread(dict.fromkeys(SOURCES, total / 3) | {TOGETHER: 0.0, SAMPLING: 0.0}, where)


def _parts(found: Sequence[Components], times: int, scale: float) -> dict[str, float]:
    means = dict.fromkeys((*SOURCES, TOGETHER, SAMPLING), 0.0)
    for each in found:
        for part in each.parts:
            means[part.name] += times * part.deviation.value**2 / scale / len(found)
    return means


def _design_of(results: Sequence[TrialResult]) -> SeedDesign | None:
    levels = {name: 1 + max(getattr(result.seed, name) for result in results) for name in SOURCES}
    if math.prod(levels.values()) != len(results) or max(levels.values()) == 1:
        return None
    return SeedDesign(**levels, sampling=max(1, min(len(result.by_sampling) for result in results)))
