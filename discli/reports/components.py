"""How much of the spread of scores each source of chance has: an analysis of variance of a crossed design.

Every score is mean + init + order + noise + what they do together + sampling, each a random number of its own
variance. All combinations of the training's seeds are trained (crossed), and all networks are scored with the same
sampling seeds. The estimator is that of moments, unbiased in a balanced design: mean squares, whose expectations are
known sums of the variances, are solved for these (Searle, Casella and McCulloch, Variance Components, 1992,
chapter 4). Intervals are generalized confidence intervals (Weerahandi, 1993): every mean square divided by a drawn
chi-square over its degrees of freedom, solved again; they hold for shares and ratios as well. A parametric
bootstrap stands beside them as a check.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy import optimize, special, stats

from discli.reports.chance import LEVEL, Estimate

TOGETHER, SAMPLING = "together", "sampling"
DRAWS = 10_000
_BOUNDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)

Array = NDArray[np.float64]


class Interval(BaseModel):
    """A figure and its interval at 95%."""

    value: float
    low: float
    high: float


class Component(BaseModel):
    """One source of chance: what of the variance is its own."""

    name: str
    levels: int
    deviation: Interval  # of scores, if only this part were there
    share: Interval  # of the whole variance
    alone: Interval | None  # deviation where this one seed is varied and the others are held: with what it does to them
    bootstrap: tuple[float, float]  # the interval of ``deviation`` by a parametric bootstrap


class Components(BaseModel):
    """Where the spread of one point's scores comes from."""

    mean: Interval
    deviation: Interval  # of one network's score by one set of samples
    cv: Interval | None  # that as a part of the mean: the coefficient of variation; None where the mean is 0
    networks: int
    samplings: int
    parts: tuple[Component, ...]
    training_to_sampling: Interval | None  # deviation over trainings / that over samples of one network

    @property
    def estimate(self) -> Estimate:
        """The mean as other means are written."""
        return Estimate(self.mean.value, self.mean.low, self.mean.high, self.networks)


@dataclass(frozen=True)
class _Sums:
    """Mean squares of a design, and what they are put together to: one row of ``rows`` each."""

    freedom: Array  # (m,)
    expected: Array  # (m, v): mean squares from the variances
    solved: Array  # (v, m): the variances from mean squares
    subsets: tuple[tuple[int, ...], ...]  # of the training's factors, one a variance; then the sampling's, if any
    sizes: tuple[int, ...]
    samplings: int

    @property
    def of_sampling(self) -> list[int]:
        """Places of the sampling's two variances: of its seed alone, and of network and seed together."""
        count = len(self.subsets)
        return [count, count + 1] if self.samplings > 1 else []


def components(scores: Array, names: Sequence[str]) -> Components:
    """``scores``: one axis of at least two levels for each of ``names``, and one of sampling seeds at the end.

    With one sampling seed the sampling's part cannot be told from what the others do together, and is in there.
    """
    sums = _design(scores.shape)
    squares = mean_squares(scores, sums)
    generator = np.random.default_rng(0)
    chances = generator.chisquare(sums.freedom, (DRAWS, len(sums.freedom))) / sums.freedom
    drawn = squares / chances
    groups, labels = _groups(sums, names)
    totals = groups.sum(0)

    def interval(row: Array) -> Interval:
        """Of a standard deviation whose variance is ``row`` times the mean squares."""
        low, high = np.quantile(_positive(drawn @ row), _BOUNDS)
        return Interval(value=_root(squares @ row), low=_root(low), high=_root(high))

    fitted = sums.expected @ _positive(sums.solved @ squares)
    again = fitted * generator.chisquare(sums.freedom, (DRAWS, len(sums.freedom))) / sums.freedom
    shares = _shares(drawn @ groups.T)
    now = _shares((groups @ squares)[None])[0]
    parts = []
    for place, (label, levels) in enumerate(labels):
        low, high = np.quantile(shares[:, place], _BOUNDS)
        checked = np.quantile(_positive(again @ groups[place]), _BOUNDS)
        alone = interval(_alone(sums, place)) if place < len(names) else None
        parts.append(
            Component(
                name=label,
                levels=levels,
                deviation=interval(groups[place]),
                share=Interval(value=float(now[place]), low=float(low), high=float(high)),
                alone=alone,
                bootstrap=(_root(checked[0]), _root(checked[1])),
            )
        )
    ratio = None
    if sums.of_sampling:
        over = np.sqrt(_positive(drawn @ (totals - groups[-1])) / np.maximum(_positive(drawn @ groups[-1]), 1e-300))
        low, high = np.quantile(over, _BOUNDS)
        value = _root(squares @ (totals - groups[-1])) / max(_root(squares @ groups[-1]), 1e-150)
        ratio = Interval(value=value, low=float(low), high=float(high))
    mean, deviation = _mean(scores, sums, squares), _whole(totals * squares, sums.freedom)
    bounds = {name: value / abs(mean.value) for name, value in deviation} if mean.value else None
    return Components(
        mean=mean,
        deviation=deviation,
        cv=None if bounds is None else Interval(**bounds),
        networks=math.prod(sums.sizes),
        samplings=sums.samplings,
        parts=tuple(parts),
        training_to_sampling=ratio,
    )


def error_of_mean(sizes: Sequence[int], samplings: int, variances: Sequence[float], of_sampling: float) -> float:
    """Standard error of a design's mean, from each factor's own variance, that of all together, and the sampling's.

    ``sizes`` are the levels of the factors, ``variances`` theirs and then that of what they do together.
    """
    networks = math.prod(sizes)
    own = sum(variance / size for variance, size in zip(variances, sizes, strict=False))
    return math.sqrt(own + variances[len(sizes)] / networks + of_sampling / samplings)


def mean_squares(scores: Array, sums: _Sums) -> Array:
    """(..., m) of scores (..., factors, sampling seeds)."""
    factors = len(sums.sizes)
    axes = range(-factors - 1, -1)
    networks = scores.mean(-1, keepdims=True)
    found = []
    for subset in sums.subsets:
        effect = networks
        for number, axis in enumerate(axes):
            mean = effect.mean(axis, keepdims=True)
            effect = effect - mean if number in subset else mean
        others = sums.samplings * math.prod(size for i, size in enumerate(sums.sizes) if i not in subset)
        found.append(others * (effect**2).sum((*axes, -1)))
    if sums.of_sampling:
        mean = networks.mean(tuple(axes), keepdims=True)
        of_seed = scores.mean(tuple(axes), keepdims=True) - mean
        left = scores - networks - of_seed
        found.append(math.prod(sums.sizes) * (of_seed**2).sum((*axes, -1)))
        found.append((left**2).sum((*axes, -1)))
    return np.stack(found, -1) / sums.freedom


def _design(shape: Sequence[int]) -> _Sums:
    *sizes, samplings = shape
    places = range(len(sizes))
    subsets = tuple(s for count in range(1, len(sizes) + 1) for s in itertools.combinations(places, count))
    networks = math.prod(sizes)
    freedom = [math.prod(sizes[i] - 1 for i in subset) for subset in subsets]
    m = len(subsets) + (2 if samplings > 1 else 0)
    expected = np.zeros((m, m))
    for row, subset in enumerate(subsets):
        for column, other in enumerate(subsets):
            if set(subset) <= set(other):
                expected[row, column] = samplings * math.prod(sizes[i] for i in places if i not in other)
    if samplings > 1:
        freedom += [samplings - 1, (networks - 1) * (samplings - 1)]
        expected[:, -1] = 1  # network and sampling seed together are in every mean square
        expected[-2, -2] = networks
    solved = np.linalg.inv(expected).astype(np.float64)
    return _Sums(np.array(freedom, dtype=float), expected, solved, subsets, tuple(sizes), samplings)


def _groups(sums: _Sums, names: Sequence[str]) -> tuple[Array, list[tuple[str, int]]]:
    """Rows over mean squares, one a part that is told apart, with names and levels."""
    labels = list(zip(names, sums.sizes, strict=True))
    rows = [sums.solved[place] for place in range(len(names))]
    further = [place for place, subset in enumerate(sums.subsets) if len(subset) > 1]
    if further:
        rows.append(sums.solved[further].sum(0))
        labels.append((TOGETHER, math.prod(sums.sizes)))
    if sums.of_sampling:
        rows.append(sums.solved[sums.of_sampling].sum(0))
        labels.append((SAMPLING, sums.samplings))
    return np.stack(rows), labels


def _alone(sums: _Sums, factor: int) -> Array:
    """The variance over one factor's levels, the others held: its own and all that it has a part in."""
    return np.asarray(sums.solved[[place for place, subset in enumerate(sums.subsets) if factor in subset]].sum(0))


def _whole(parts: Array, freedom: Array) -> Interval:
    """Of the root of a sum of mean squares, each times a factor that is not negative (Graybill and Wang, 1980).

    A generalized interval of this sum lies too high: where networks have little in common it held four times in five.
    """
    low, high = (1 - freedom / stats.chi2.ppf(bound, freedom) for bound in reversed(_BOUNDS))
    variance = parts.sum()
    below, above = (np.sqrt(((factor * parts) ** 2).sum()) for factor in (low, high))
    return Interval(value=_root(variance), low=_root(variance - below), high=_root(variance + above))


def _mean(scores: Array, sums: _Sums, squares: Array) -> Interval:
    """Student's interval, where the variance of the mean is a sum of mean squares.

    The sum has negative terms; it is taken for no less than what independent networks would give.
    """
    networks = math.prod(sums.sizes)
    weights = [1 / math.prod(sums.sizes[i] for i in subset) for subset in sums.subsets]
    weights += [1 / sums.samplings, 1 / (networks * sums.samplings)] if sums.of_sampling else []
    row = np.array(weights) @ sums.solved
    parts, mean = row * squares, float(scores.mean())
    whole = len(sums.subsets) - 1
    least = float(squares[whole]) / (networks * sums.samplings)
    variance = float(parts.sum())
    if variance > least or _is_uneven(sums.sizes):
        freedom = freedom_of_mean(sums.sizes, parts, sums.freedom)
    else:
        freedom = float(sums.freedom[whole])
    half = float(stats.t.ppf(_BOUNDS[1], freedom)) * math.sqrt(max(variance, least))
    return Interval(value=mean, low=mean - half, high=mean + half)


def freedom_of_mean(sizes: Sequence[int], parts: Array, freedom: Array) -> float:
    """Degrees of freedom of a sum of mean squares, each times a factor: ``parts``, with ``freedom`` of each.

    Satterthwaite's (1946). Where one source has two levels and another more, the mean square of the two is often
    small by chance, and the interval that follows held 88 to 94 times of 100: it is then that of Cochran's t, the
    mean of the parts' t values weighted by what they add (Biometrics, 1964), which held 94 to 99.
    """
    added = _positive(parts)
    if not _is_uneven(sizes) or not added.any():
        return max(1.0, float(parts.sum() ** 2 / max((parts**2 / freedom).sum(), 1e-300)))
    wanted = float((added * special.stdtrit(freedom, _BOUNDS[1])).sum() / added.sum())
    return float(optimize.brentq(lambda found: special.stdtrit(found, _BOUNDS[1]) - wanted, 0.99, 1e6))


def _is_uneven(sizes: Sequence[int]) -> bool:
    return min(sizes) == 2 < max(sizes)


def _positive(values: Array) -> Array:
    """Moments may give less than nothing where there is little."""
    return np.maximum(values, 0.0)


def _shares(groups: Array) -> Array:
    """(draws, parts) of variances as parts of their sum."""
    kept = _positive(groups)
    return np.asarray(kept / np.maximum(kept.sum(-1, keepdims=True), 1e-300))


def _root(variance: Any) -> float:
    return math.sqrt(max(0.0, float(variance)))
