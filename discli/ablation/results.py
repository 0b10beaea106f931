"""What a study has found so far: its finished trials, put together by point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from discli.ablation.seeds import Estimate, estimate

Result = dict[str, Any]


@dataclass(frozen=True)
class StudyReport:
    """Results of a study's finished trials as `discli.ablation.trial` writes them, and what became of the others."""

    name: str
    base: str
    budget: str
    seeds: Sequence[int]
    trials: int
    results: Sequence[Result]
    failures: Mapping[str, str] = field(default_factory=dict)  # trial -> why
    images: Mapping[str, Path] = field(default_factory=dict)  # trial -> strip of square images

    @cached_property
    def points(self) -> list["PointResults"]:
        """In the study's order."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            found.setdefault(result.point, []).append(result)
        return [PointResults(name, results) for name, results in found.items()]

    @property
    def score_name(self) -> str:
        return str(self.results[0].score_name)

    @property
    def axis_label(self) -> str:
        """The score's name without its warning, which the page has above."""
        return self.score_name.partition(",")[0]


@dataclass(frozen=True)
class PointResults:
    """One combination of settings, over its seeds."""

    name: str
    results: Sequence[Result]

    @property
    def first(self) -> Result:
        return self.results[0]

    def by_seed(self, key: str) -> dict[int, float]:
        return {result.seed: result[key] for result in self.results}

    def estimate(self, key: str) -> Estimate:
        return estimate(list(self.by_seed(key).values()))
