"""How points differ: two of them, seed by seed; and every one from a study's baseline."""

from dataclasses import dataclass

from discli.ablation.results import BesideBaseline, PointResults, StudyReport
from discli.reports.chance import Estimate, deviation, differences, estimate, seeds_needed
from discli.reports.components import components

HELPS, HURTS, UNTOLD, EQUAL = "helps", "hurts", "cannot be told", "scores the same"


@dataclass(frozen=True)
class Gap:
    """How two points differ: the mean of differences, and the standard deviation of one seed's difference."""

    found: Estimate
    noise: float
    of: str  # what is counted

    @property
    def interval(self) -> tuple[float, float]:
        assert self.found.low is not None  # a difference has two seeds at least
        assert self.found.high is not None
        return self.found.low, self.found.high

    @property
    def seeds_needed(self) -> int | None:
        """That would show it four times in five; None: more than 100,000."""
        return seeds_needed(self.found.mean, self.noise)


def gap(a: PointResults, b: PointResults) -> Gap | None:
    """Scores of a - b, seed by seed; None without two seeds in common."""
    if a.grid is not None and b.grid is not None and a.design is not None:
        crossed = components(a.grid - b.grid, list(a.design.varied))
        return Gap(crossed.estimate, crossed.deviation.value, "networks")
    by_seed = differences(a.by_seed("score"), b.by_seed("score"))
    return Gap(estimate(by_seed), deviation(by_seed), "seeds") if len(by_seed) >= 2 else None


def beside_baseline(report: StudyReport) -> list[BesideBaseline]:
    """Every other point; empty where the study names no baseline, or no seed of it is finished."""
    base = next((point for point in report.points if point.name == report.baseline), None)
    if base is None:
        return []
    return [_beside(point, base, report) for point in report.points if point is not base]


def _beside(point: PointResults, base: PointResults, report: StudyReport) -> BesideBaseline:
    fair = not point.own_teacher and not base.own_teacher
    found = gap(point, base) if fair else None
    by_seed = differences(point.by_seed("score"), base.by_seed("score")) if fair else []
    verdict = _verdict(found)
    # A loss is of an objective, its weighting and its timesteps.
    same_loss = point.first.recipe["diffusion"] == base.first.recipe["diffusion"]
    rates = [each.estimate("images_per_second").mean for each in (point, base)]
    return BesideBaseline(
        point=point.name,
        verdict=verdict if fair else "scored by its teacher's own features",
        score=found.found if found else estimate(by_seed) if by_seed else None,
        seeds_needed=found.seeds_needed if found and verdict == UNTOLD else None,
        recognised=_difference(point, base, "recognised") if fair else None,
        held_out_loss=_difference(point, base, "held_out_loss") if same_loss else None,
        images_per_second=rates[0] / rates[1],
        reported=report.reported.get(point.name, ""),
    )


def _verdict(found: Gap | None) -> str:
    if found is None:
        return UNTOLD
    low, high = found.interval
    if low == high == 0:
        return EQUAL
    return HELPS if high < 0 else HURTS if low > 0 else UNTOLD  # lower scores are better


def _difference(point: PointResults, base: PointResults, key: str) -> Estimate | None:
    """Of a figure that not every trial has."""
    known = [{seed: value for seed, value in each.by_seed(key).items() if value is not None} for each in (point, base)]
    by_seed = differences(*known)
    return estimate(by_seed) if by_seed else None
