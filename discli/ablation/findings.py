"""What a study's scores say in words: which differences exceed their interval, and what that rests on."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from discli.ablation.gaps import EQUAL, HELPS, HURTS, UNTOLD, Gap, beside_baseline, gap
from discli.ablation.results import PointResults, StudyReport
from discli.ablation.scorer import at_edges
from discli.reports.chance import LEVEL
from discli.reports.components import SAMPLING, TOGETHER

# With more points, each is compared with the best alone; with still more, the comparisons are summed up.
_MOST_FOR_ALL_PAIRS = 5
_MOST_FOR_A_LINE_EACH = 20
_MOST_NAMED = 12

_IN_WORDS = {
    "init": "initialisation", "order": "the order of the data", "noise": "the noise of the training",
    TOGETHER: "what these do together", SAMPLING: "sampling",
}  # fmt: skip


Pair = tuple[PointResults, PointResults, Gap]


def in_words(report: StudyReport) -> Iterator[str]:
    """Sentence by sentence; nothing where there are no two points to compare."""
    for point in report.points:
        yield from _spread(point)
        yield from _edges(point)
    points = [point for point in report.points if not point.own_teacher]
    if len(points) < len(report.points):
        taught = _listed(point.name for point in report.points if point.own_teacher)
        yield f"Scored by their teacher's own features, and so not compared: {taught}."
    if len(points) < 2:
        return
    yield from _from_baseline(report) if beside_baseline(report) else _differences(points)
    seeds = {frozenset(point.by_seed("score")) for point in points}
    if len(seeds) > 1:
        yield "Not all points have all seeds: a difference is over those in common, the means over all there are."
    yield from _caveats(points)


def _from_baseline(report: StudyReport) -> Iterator[str]:
    found = beside_baseline(report)
    for verdict, said in (
        (HELPS, "Better (lower) scores than {} by more than chance"),
        (HURTS, "Worse (higher) scores than {} by more than chance"),
        (EQUAL, "The same scores as {}"),
        (UNTOLD, "No more than chance would do sets apart from {}"),
    ):
        names = [each.point for each in found if each.verdict == verdict]
        if names:
            yield f"{said.format(report.baseline)}: {_listed(names)}."
    yield from _many(sum(each.score is not None and each.score.low is not None for each in found))


def _many(comparisons: int) -> Iterator[str]:
    if comparisons > 2:
        yield f"These are {comparisons} comparisons: of intervals at {LEVEL:.0%}, one in twenty errs by chance alone."


def _differences(points: Sequence[PointResults]) -> Iterator[str]:
    best = min(points, key=lambda point: point.score.mean)
    all_pairs = len(points) <= _MOST_FOR_ALL_PAIRS
    pairs = list(itertools.combinations(points, 2)) if all_pairs else [(best, p) for p in points if p is not best]
    told: list[Pair] = []
    untold = []
    for a, b in pairs:
        found = gap(a, b)
        if found is None:
            untold.append((a, b))
        else:
            told.append((a, b, found))
    if len(points) <= _MOST_FOR_A_LINE_EACH:
        yield from (_sentence(*pair) for pair in told)
    elif told:
        yield from _summed_up(best, told)
    if untold and not told:
        yield "No two points have two seeds in common, so nothing can be told from chance."
    elif untold:
        names = _listed(f"{a.name} and {b.name}" for a, b in untold)
        yield f"No two seeds in common, so that nothing can be told from chance: {names}."
    yield from _many(len(told))
    if told and not all_pairs:
        yield f"{best.name} was picked as the best of {len(points)} by these same scores, which flatters it."


def _spread(point: PointResults) -> Iterator[str]:
    """Where the scores of a point whose seeds are crossed have their spread from."""
    if point.design is None:
        return
    found = point.components
    if found is None:
        there, all_of_them = len(point.results), len(point.design.trainings())
        yield f"{point.name}: {there} of {all_of_them} networks are finished, and its spread is told apart with all."
        return
    if found.deviation.value == 0:
        yield f"{point.name}: all {found.networks} networks score the same."
        return
    shares = [
        f"{part.share.value:.0%} is {_IN_WORDS[part.name]} ({part.share.low:.0%} to {part.share.high:.0%})"
        for part in sorted(found.parts, key=lambda part: -part.share.value)
    ]
    size, cv = found.deviation, found.cv
    relative = "" if cv is None else f", {cv.value:.2%} of the score ({cv.low:.2%} to {cv.high:.2%})"
    yield (
        f"{point.name}: one network's score has a standard deviation of {size.value:.3g}"
        f" ({size.low:.3g} to {size.high:.3g}){relative}; of the spread, {', '.join(shares)}."
    )
    ratio = found.training_to_sampling
    if ratio is None:
        yield "With one sampling seed, the part of sampling cannot be told from what the others do together."
    else:
        yield (
            f"{point.name}: another training moves the score {ratio.value:.3g} times ({ratio.low:.3g} to"
            f" {ratio.high:.3g}) as much as other samples of the same network."
        )


def _edges(point: PointResults) -> Iterator[str]:
    """Where the best setting to sample with may lie beyond those that were tried."""
    found = Counter(edge for tuned in point.tuned for edge in at_edges(tuned.chosen, tuned.tried))
    for edge, count in found.items():
        yield f"{point.name}: {edge}, and was chosen for {count} of {len(point.tuned)} trials: there may be better."


def _sentence(a: PointResults, b: PointResults, gap: Gap) -> str:
    found = gap.found
    low, high = gap.interval
    if low == high == 0:
        return f"{a.name} and {b.name} score the same with each of {found.count} {gap.of}."
    better, worse, low, high = (a, b, -high, -low) if found.mean < 0 else (b, a, low, high)
    size = f"by {abs(found.mean):.3g} ({LEVEL:.0%} interval {low:.3g} to {high:.3g}, {found.count} {gap.of})"
    if low > 0:
        return f"{better.name} scores better (lower) than {worse.name} {size}."
    told = f"{better.name} scores lower than {worse.name} {size}: no more than chance would do."
    needed = gap.seeds_needed
    size = "more than 100,000 seeds" if needed is None else f"about {needed:,} seeds"
    size += ", no two networks with one in common," if gap.of == "networks" else ""
    return f"{told} Gap {abs(found.mean):.2g}, noise of one seed {gap.noise:.2g}: cannot be told; {size} would show it."


def _summed_up(best: PointResults, told: Sequence[Pair]) -> Iterator[str]:
    """``told`` compares ``best`` with each of the others."""
    chance = [other.name for _, other, gap in told if gap.interval[1] >= 0]
    yield f"{best.name} scores better (lower) than {len(told) - len(chance)} of {len(told)} other points."
    if chance:
        yield f"No more than chance would do sets it apart from {_listed(chance)}."


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _MOST_NAMED
    return "; ".join(every[:_MOST_NAMED]) + (f"; and {more:,} more" if more > 0 else "")


def _caveats(points: Sequence[PointResults]) -> Iterator[str]:
    for key, what in (("forward_gflops", "one forward pass"), ("training_tflops", "training")):
        costs = [getattr(point.first, key) for point in points]
        ratio = max(costs) / min(costs)
        if f"{ratio:.3g}" != "1":
            yield f"Cost differs: {what} of the most expensive point takes {ratio:.3g} times the FLOPs of the cheapest."
    objectives = {point.first.objective for point in points}
    if len(objectives) > 1:
        yield "Their losses measure different things (diffusion.objective) and cannot be compared."
    # Every score's own; those of the points are mostly the same.
    yield from dict.fromkeys(
        warning for point in points for result in point.results for warning in result.eval.warnings
    )
    scored = [result.eval for point in points for result in point.results]
    for what, found in (
        ("against {} different references", {each.reference.sha256 for each in scored}),
        ("by {} different feature networks", {(each.features, each.weights_sha256, each.precision) for each in scored}),
        ("on images of {} different sizes", {each.samples.resolution for each in scored}),
    ):
        if len(found) > 1:
            yield f"They were scored {what.format(len(found))}, and so cannot be compared as they are."
