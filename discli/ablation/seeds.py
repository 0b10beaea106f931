"""What repeating a run with other seeds says: means, intervals, and which differences are more than chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from discli.runtime.numbers import format_number

LEVEL = 0.95


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
        decimals = max(0, 1 - math.floor(math.log10(self.half_width)))
        return f"{self.mean:.{decimals}f} ± {self.half_width:.{decimals}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Student's interval of the mean at `LEVEL`: mean ± t s / sqrt(n), s with n - 1 in its denominator."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(mean, None, None, n)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * spread / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate | None:
    """a - b, by seed -> value. Paired: equal seeds share data, noise and classes. None without two common seeds."""
    common = sorted(a.keys() & b.keys())
    return estimate([a[seed] - b[seed] for seed in common]) if len(common) >= 2 else None


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's; None where ``x`` has fewer than three values, through which any line would pass, or y but one."""
    if len({*x}) < 3 or len({*y}) < 2:
        return None
    return float(stats.pearsonr(x, y).statistic)
