"""Several scores a side: whether the two sides differ by more than chance, paired by seed where they are.

Networks are what counts: scores of one network by several sets of samples are averaged first, since another training
moves a score more than other samples of the same network do ("The FID Lottery", arXiv:2606.20536).
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from discli.recipe.seeds import SOURCES, Seeds
from discli.reports.chance import LEVEL, Estimate, Seed, deviation, differences, estimate, seeds_needed, unpaired
from discli.reports.compare_scores import SAMPLED, Comparison, in_words, not_comparable
from discli.reports.components import components
from discli.runs.eval_result import EvalResult, read_eval_result
from discli.runtime.errors import DiscliError
from discli.runtime.numbers import format_number

_OF_CHANCE = ("seed", "train_seed", "run", "step", "model_sha256")  # what scores of one side may differ in


@dataclass(frozen=True)
class _Side:
    name: str
    results: Sequence[EvalResult]

    @cached_property
    def networks(self) -> dict[Hashable, list[EvalResult]]:
        """Scores of each network."""
        found: dict[Hashable, list[EvalResult]] = {}
        for result in self.results:
            found.setdefault(_network(result), []).append(result)
        return found

    @property
    def means(self) -> list[float]:
        """Of each network, over its sets of samples."""
        return [math.fsum(map(_distance, scores)) / len(scores) for scores in self.networks.values()]

    def by_training(self) -> dict[Seeds, float]:
        """Means by the training's seed; empty where one is not known or two networks share it."""
        seeds = [scores[0].samples.train_seed for scores in self.networks.values()]
        known = [seed for seed in seeds if seed is not None]
        return dict(zip(known, self.means, strict=True)) if len({*known}) == len(seeds) else {}

    def by_sampling(self) -> dict[int, float]:
        """Scores by the sampling's seed, of one network."""
        seeds = {result.samples.seed: _distance(result) for result in self.results}
        return {seed: score for seed, score in seeds.items() if seed is not None}

    def line(self) -> str:
        result, networks, scores = self.results[0], len(self.networks), len(self.results)
        counted = f"{networks} network{'s' if networks > 1 else ''}"
        counted += f", {scores} sets of samples" if scores > networks else ""
        name = next(name for name, value in result.scores.items() if value == result.distance)
        mean = estimate(self.means)
        if _share_seeds(self):  # its half width would be that of independent networks
            mean = Estimate(mean.mean, None, None, mean.count)
        return f"{self.name}: {name} = {mean} at n = {result.samples.n:,} ({counted})"


@dataclass(frozen=True)
class _Difference:
    found: Estimate
    noise: float  # standard deviation of one seed's difference
    how: str


def compare_sides(first: Sequence[str | Path], second: Sequence[str | Path]) -> Comparison:
    """Files of ``discli eval-fid --json`` on two sides, A and B.

    Raises DiscliError for anything else, and where a score is given twice.
    """
    a, b = (_Side(name, [read_eval_result(path) for path in paths]) for name, paths in (("A", first), ("B", second)))
    _check_once([*first, *second], [*a.results, *b.results])
    files, results = [*first, *second], [*a.results, *b.results]
    missing = [Path(path).name for path, result in zip(files, results, strict=True) if result.distance is None]
    if missing:
        raise DiscliError(f"{missing[0]}: no Frechet distance.", "Score it with --metrics fid.")
    forbids = [
        f"{Path(path).name} and {Path(files[0]).name}: {line}"
        for path, result in zip(files[1:], results[1:], strict=True)
        for line in not_comparable(result, results[0])
    ]
    if len(sizes := sorted({result.samples.n for result in results})) > 1:
        forbids.append(f"n: {' and '.join(f'{n:,}' for n in sizes)} samples; fewer samples score higher.")
    return Comparison([a.line(), b.line()], forbids, _settings(a, b), [] if forbids else _verdict(a, b))


def _verdict(a: _Side, b: _Side) -> list[str]:
    found = _difference(a, b)
    if found is None:
        return ["Whether they differ cannot be told from chance: give scores of two trainings on each side."]
    low, high = found.found.low, found.found.high
    assert low is not None
    assert high is not None
    gap, better = abs(found.found.mean), a if found.found.mean < 0 else b
    bounds = (-high, -low) if better is a else (low, high)
    interval = " to ".join(format_number(bound, 3) for bound in bounds)
    size = f"{better.name} is lower by {format_number(gap, 3)} ({LEVEL:.0%} interval {interval}; {found.how})"
    if gap == 0 and low == high:
        lines = [f"They score the same ({found.how})."]
    elif bounds[0] > 0:
        lines = [f"They differ: {size}."]
    else:
        needed = seeds_needed(gap, found.noise)
        seeds = "more than 100,000 seeds" if needed is None else f"about {needed:,} seeds a side"
        noise = f"Gap {format_number(gap, 2)}, noise of one seed {format_number(found.noise, 2)}"
        lines = [f"Whether they differ cannot be told: {size}. {noise}: {seeds} would show it."]
    if "all combinations" not in found.how and (_share_seeds(a) or _share_seeds(b)):
        lines.append("Some networks of a side share a seed, which makes this interval too narrow.")
    if len(a.networks) == len(b.networks) == 1:
        lines.append("This is of these two networks alone: with other seeds of the training they may differ otherwise.")
    return lines


def _difference(a: _Side, b: _Side) -> _Difference | None:
    """a - b; None where a side has too little to tell its spread."""
    if len(a.networks) == len(b.networks) == 1:
        scores = [[_distance(result) for result in side.results] for side in (a, b)]
        return _paired_or_not(a.by_sampling(), b.by_sampling(), scores[0], scores[1], "sets of samples")
    by_a, by_b = a.by_training(), b.by_training()
    return _crossed(by_a, by_b) or _paired_or_not(by_a, by_b, a.means, b.means, "networks")


def _crossed(by_a: Mapping[Seeds, float], by_b: Mapping[Seeds, float]) -> _Difference | None:
    """Where the pairs have all combinations of some seeds: networks that share one are alike, and count as such."""
    common = sorted(by_a.keys() & by_b.keys(), key=_in_order)
    varied = [name for name in SOURCES if len(_values(common, name)) > 1]
    sizes = [len(_values(common, name)) for name in varied]
    if len(varied) < 2 or math.prod(sizes) != len(common):
        return None
    grid = np.array([by_a[seed] - by_b[seed] for seed in common]).reshape(*sizes, 1)
    found = components(grid, varied)
    how = f"{len(common)} networks a side, all combinations of {' and '.join(varied)} seeds, paired by seed"
    how += _left_out(len(by_a) + len(by_b) - 2 * len(common))
    return _Difference(found.estimate, found.deviation.value, how)


def _share_seeds(side: _Side) -> bool:
    """Whether some networks of several have a seed in common: they are not independent."""
    known = (scores[0].samples.train_seed for scores in side.networks.values())
    seeds = [seed for seed in known if seed is not None]
    return len({*seeds}) < len(seeds) or any(1 < len(_values(seeds, name)) < len(seeds) for name in SOURCES)


def _values(seeds: Sequence[Seeds], name: str) -> set[int]:
    return {getattr(seed, name) for seed in seeds}


def _in_order(seed: Seeds) -> tuple[int, int, int]:
    return seed.init, seed.order, seed.noise


def _paired_or_not(
    by_a: Mapping[Seed, float],
    by_b: Mapping[Seed, float],
    all_a: Sequence[float],
    all_b: Sequence[float],
    of: str,
) -> _Difference | None:
    pairs = differences(by_a, by_b)
    if len(pairs) >= 2:
        rest = _left_out(len(all_a) + len(all_b) - 2 * len(pairs))
        return _Difference(estimate(pairs), deviation(pairs), f"{len(pairs)} {of} a side, paired by seed{rest}")
    found = unpaired(all_a, all_b)
    if found is None:
        return None
    noise = math.hypot(deviation(all_a), deviation(all_b))
    return _Difference(found, noise, f"{len(all_a)} and {len(all_b)} {of}, not paired")


def _left_out(count: int) -> str:
    return f"; {count} without a partner left out" if count else ""


def _settings(a: _Side, b: _Side) -> list[str]:
    """What differs between the sides or within one, but for what is left to chance."""
    lines = []
    for key, what in SAMPLED.items():
        if key in _OF_CHANCE:
            continue
        found = [_said(key, side) for side in (a, b)]
        if all(found) and (found[0] != found[1] or len(found[0]) > 1):
            lines.append(f"{what}: {', '.join(found[0])} and {', '.join(found[1])}.")
    return lines


def _said(key: str, side: _Side) -> list[str]:
    """Every value of a setting once, in words."""
    values = (getattr(result.samples, key) for result in side.results)
    return list(dict.fromkeys(in_words(key, value) for value in values if value is not None))


def _check_once(paths: Sequence[str | Path], results: Sequence[EvalResult]) -> None:
    """A score that counts twice would make an interval too narrow."""
    seen: dict[Hashable, str | Path] = {}
    for path, result in zip(paths, results, strict=True):
        key = Path(path).resolve()
        if key in seen:
            raise DiscliError(f"{path} is given twice.", "Give every score once.")
        seen[key] = path
        made = result.samples
        # Wherever they lie: of these the samples follow.
        same = (_network(result), made.n, *(str(getattr(made, key)) for key in SAMPLED if key != "run"))
        if made.seed is not None and same in seen:
            raise DiscliError(f"{path} scores the same samples as {seen[same]}.", "Give every score once.")
        seen[same] = path


def _network(result: EvalResult) -> Hashable:
    """The trained network; of samples that nothing is known of, themselves."""
    samples = result.samples
    where = samples.run or samples.path, samples.step, samples.train_seed, str(samples.ema)
    return samples.model_sha256 or where


def _distance(result: EvalResult) -> float:
    assert result.distance is not None  # checked before
    return result.distance
