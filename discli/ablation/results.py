"""What a study has found so far: its finished trials, put together by point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from discli.ablation.trial_result import TrialResult, Tuned
from discli.recipe.seeds import Seeds
from discli.recipe.study import SeedDesign
from discli.reports.chance import Estimate, estimate
from discli.reports.components import Array, Components, components


@dataclass(frozen=True)
class StudyReport:
    """Results of a study's finished trials as `discli.ablation.trial` writes them, and what became of the others."""

    name: str
    base: str
    budget: str
    seeds: Sequence[Seeds]
    trials: int
    results: Sequence[TrialResult]
    failures: Mapping[str, str] = field(default_factory=dict)  # trial -> why
    images: Mapping[str, Path] = field(default_factory=dict)  # trial -> strip of square images
    design: SeedDesign | None = None  # where seeds are crossed
    baseline: str | None = None  # the point that the others are compared with
    reported: Mapping[str, str] = field(default_factory=dict)  # point -> what was reported of it elsewhere

    @cached_property
    def points(self) -> list["PointResults"]:
        """In the study's order."""
        found: dict[str, list[TrialResult]] = {}
        for result in self.results:
            found.setdefault(result.point, []).append(result)
        return [PointResults(name, results, self.design) for name, results in found.items()]

    @property
    def score_name(self) -> str:
        comparable = [result for result in self.results if not result.eval.own_teacher]
        return str((comparable or self.results)[0].score_name)

    @property
    def axis_label(self) -> str:
        """The score's name without its warning, which the page has above."""
        return self.score_name.partition(",")[0]

    @property
    def is_tuned(self) -> bool:
        return any(point.tuned for point in self.points)

    @property
    def scored_samples(self) -> int:
        """Samples of a trial's score: drawn ones, or held-out ones of a loss, of which there is always a curve."""
        first = self.results[0]
        drawn = first.score_name in first.eval.scores or not first.curve
        return first.eval.samples.n if drawn else first.curve[-1].n


@dataclass(frozen=True)
class PointResults:
    """One combination of settings, over its seeds."""

    name: str
    results: Sequence[TrialResult]
    design: SeedDesign | None = None

    @property
    def first(self) -> TrialResult:
        return self.results[0]

    @property
    def own_teacher(self) -> bool:
        """Whether it is scored by the features that it was trained to have."""
        return any(result.eval.own_teacher for result in self.results)

    def by_seed(self, key: str) -> dict[Seeds, float]:
        return {result.seed: getattr(result, key) for result in self.results}

    def estimate(self, key: str) -> Estimate:
        """The mean of a figure of all networks; where seeds are crossed, those that share one are alike."""
        by_seed = self.by_seed(key)
        wanted = self.design.trainings() if self.design is not None else ()
        if self.design is None or any(seed not in by_seed for seed in wanted):
            return estimate(list(by_seed.values()))
        grid = np.array([by_seed[seed] for seed in wanted]).reshape(*self.design.varied.values(), 1)
        return components(grid, list(self.design.varied)).estimate

    @cached_property
    def grid(self) -> Array | None:
        """Scores by each source of chance that varies, sampling last; None unless the whole design is finished."""
        if self.design is None:
            return None
        found = {result.seed: result.by_sampling or (result.score,) for result in self.results}
        wanted = self.design.trainings()
        if any(len(found.get(seed, ())) < self.design.sampling for seed in wanted):
            return None
        scores = [found[seed][: self.design.sampling] for seed in wanted]
        return np.array(scores).reshape(*self.design.varied.values(), self.design.sampling)

    @cached_property
    def components(self) -> Components | None:
        """Where the spread of its scores comes from; None unless the whole design is finished."""
        return None if self.grid is None or self.design is None else components(self.grid, list(self.design.varied))

    @property
    def score(self) -> Estimate:
        """The mean score. Where seeds are crossed, scores that share one are alike, and its interval is wider."""
        return self.estimate("score") if self.components is None else self.components.estimate

    @property
    def tuned(self) -> list[Tuned]:
        """What its trials were tuned to; empty unless the study says so."""
        return [result.tuned for result in self.results if result.tuned is not None]

    @property
    def tuning_seconds(self) -> float:
        """Of one trial."""
        return fmean(tuned.seconds for tuned in self.tuned) if self.tuned else 0.0

    @property
    def set_seconds(self) -> float:
        """Drawing and scoring one set of samples."""
        return fmean(result.eval.seconds for result in self.results)

    @property
    def recognised(self) -> Estimate | None:
        """Share of samples recognised as the class asked for; None unless it was looked at in every trial."""
        shares = self.by_seed("recognised").values()
        return self.estimate("recognised") if all(share is not None for share in shares) else None


class PointSummary(BaseModel):
    """One combination of settings: its score and loss over the seeds, and what it costs."""

    point: str
    settings: dict[str, Any]  # dotted key -> value
    seeds: list[Seeds]
    score: Estimate
    components: Components | None  # of its spread, where seeds are crossed
    recognised: Estimate | None  # share of samples recognised as the class asked for
    loss: Estimate
    seconds: float  # of one trial: its training; its samples' drawing and scoring; choosing how to draw them
    scoring_seconds: float
    tuning_seconds: float
    tuned: list[Tuned]
    parameters: int
    forward_gflops: float
    steps: int
    training_tflops: float


class BesideBaseline(BaseModel):
    """One point beside the study's baseline. Differences are point - baseline, over the seeds that both have."""

    point: str
    verdict: str  # by the score's interval at 95%
    score: Estimate | None  # None: no seed in common, or scored by its own teacher's features
    seeds_needed: int | None  # seeds that would probably tell; None where it is told, or none would
    recognised: Estimate | None  # as a share of the samples
    held_out_loss: Estimate | None  # None where it is not measured, or measures something else
    images_per_second: float  # times the baseline's
    reported: str  # elsewhere, as the study's file says it


class StudySummary(BaseModel):
    """A study's report for programs: what ``discli ablate --json`` prints."""

    format: Literal[1] = 1
    study: str
    budget: str
    score_name: str | None
    points: list[PointSummary]
    baseline: str | None
    beside_baseline: list[BesideBaseline]
    in_words: list[str]
    failures: dict[str, str]  # trial -> why
