"""What repeating a run with other seeds says: means, intervals, which differences are more than chance, and how many
seeds would show one."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scipy import stats

from discli.runtime.numbers import format_number

LEVEL = 0.95
POWER = 0.8  # how often a size that is said to show a difference does: four times in five
_MOST_SEEDS = 100_000

Seed = TypeVar("Seed", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its interval; without one (low, high None) where there is a single seed."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def half_width(self) -> float | None:
        return None if self.high is None else self.high - self.mean

    def __str__(self) -> str:
        """As many decimals as two digits of the half width have: 12.3 ± 1.5, 0.0966 ± 0.0023."""
        if not self.half_width:
            return format_number(self.mean)
        return f"{self.mean:.{self._decimals}f} ± {self.half_width:.{self._decimals}f}"

    def scaled(self, times: float) -> "Estimate":
        """In another unit, by a positive factor."""
        low, high = (None if end is None else times * end for end in (self.low, self.high))
        return Estimate(times * self.mean, low, high, self.count)

    def as_difference(self) -> str:
        """-2.13 (-2.34 to -1.92); without an interval, +2.13."""
        if not self.half_width or self.low is None or self.high is None:
            return f"{self.mean:+.3g}"
        mean, low, high = (round(value, self._decimals) + 0.0 for value in (self.mean, self.low, self.high))  # no -0
        return f"{mean:+.{self._decimals}f} ({low:.{self._decimals}f} to {high:.{self._decimals}f})"

    @property
    def _decimals(self) -> int:
        return max(0, 1 - math.floor(math.log10(self.half_width))) if self.half_width else 0


def estimate(values: Sequence[float]) -> Estimate:
    """Student's interval of the mean at `LEVEL`: mean ± t s / sqrt(n), s with n - 1 in its denominator."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(mean, None, None, n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation, n - 1 in its denominator; 0 of a single value."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))


def differences(a: Mapping[Seed, float], b: Mapping[Seed, float]) -> list[float]:
    """a - b of each seed that both have. Paired: equal seeds share data, noise and classes."""
    return [a[seed] - b[seed] for seed in a if seed in b]


def unpaired(a: Sequence[float], b: Sequence[float]) -> Estimate | None:
    """mean of a - mean of b where no two belong together (Welch, 1947). None without two values on each side."""
    if min(len(a), len(b)) < 2:
        return None
    parts = [deviation(values) ** 2 / len(values) for values in (a, b)]
    gap, error = math.fsum(a) / len(a) - math.fsum(b) / len(b), math.sqrt(sum(parts))
    if error == 0:
        return Estimate(gap, gap, gap, min(len(a), len(b)))
    freedom = sum(parts) ** 2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (a, b), strict=True))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return Estimate(gap, gap - half, gap + half, min(len(a), len(b)))


def power(gap: float, noise: float, freedom: float) -> float:
    """How often Student's test at `LEVEL` tells a true ``gap`` from chance, whose standard error is ``noise``.

    By the noncentral t distribution with ``freedom`` degrees of freedom.
    """
    if noise == 0:
        return float(gap != 0)
    if freedom < 1:
        return 0.0
    bound, shift = float(stats.t.ppf((1 + LEVEL) / 2, freedom)), abs(gap) / noise
    found = float(stats.nct.sf(bound, freedom, shift) + stats.nct.cdf(-bound, freedom, shift))
    # scipy gives NaN far out, where there is no doubt.
    return found if math.isfinite(found) else float(shift > bound)


def seeds_needed(gap: float, noise: float) -> int | None:
    """Seeds a side, paired, of which the mean of differences shows a true ``gap`` with probability `POWER`.

    ``noise`` is the standard deviation of one seed's difference. None where 100,000 would not do.
    """
    if gap == 0:
        return None

    def enough(n: int) -> bool:
        return power(gap, noise / math.sqrt(n), n - 1) >= POWER

    high = 2
    while not enough(high):
        high *= 2
        if high > _MOST_SEEDS:
            return None
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def least_gap(noise: float, freedom: float) -> float:
    """The smallest true gap that `power` puts at `POWER`, at a standard error of ``noise``; inf where there is none."""
    if freedom < 1:
        return math.inf
    low, high = 0.0, 1.0
    while power(high, 1.0, freedom) < POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, 1.0, freedom) >= POWER else (middle, high)
    return noise * high


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's; None where ``x`` has fewer than three values, through which any line would pass, or y but one."""
    if len({*x}) < 3 or len({*y}) < 2:
        return None
    return float(stats.pearsonr(x, y).statistic)
