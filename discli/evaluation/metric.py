"""What every metric is, and the one pass over a stream of images that feeds all of them.

A metric is one file in ``metrics/``: nothing else names it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from discli.evaluation.extractor import Extractor
from discli.evaluation.moments import Gaussian
from discli.evaluation.probe import Probe
from discli.runs.eval_result import FidInfinity, Recognition
from discli.runtime.errors import DiscliError
from discli.runtime.plugins import find_plugin, plugins

FOLDER, FIRST = "evaluation/metrics", "fid"
Needs = Literal["nothing", "statistics", "images", "classes"]


class Accumulator(Protocol):
    """Takes in one feature of a stream of images, or "images", the pixels themselves: rows (B, D), (B, 3, H, W).

    ``first`` is the index in the stream of the batch's first image. ``merge`` takes in another of the same making
    that saw the part of the stream after this one's.
    """

    feature: str

    def update(self, rows_BD: Tensor, first: int, /) -> None: ...

    def merge(self, other: Any, /) -> None: ...


class FeatureBuffer:
    """The rows themselves, or of "images" the pixels.

    Memory: 4 * n * D bytes (0.41 GB for 50,000 samples at D = 2048).

    ``wanted``: which indices of the stream to keep; all of them when None.
    """

    def __init__(self, feature: str = "features", wanted: Tensor | None = None) -> None:
        self.feature = feature
        self._wanted = wanted
        self._rows: list[Tensor] = []

    def update(self, rows_BD: Tensor, first: int) -> None:
        if self._wanted is not None:
            rows_BD = rows_BD[torch.isin(torch.arange(first, first + len(rows_BD)), self._wanted)]
        self._rows.append(rows_BD.float().cpu())

    def merge(self, other: "FeatureBuffer") -> None:
        self._rows += other._rows

    def rows(self) -> Tensor:
        """(n, D) float32, in the order of the stream."""
        return torch.cat(self._rows)


@dataclass(frozen=True)
class MetricSetup:
    """What a metric may want to know before the first image: the number of samples, the network, resamplings.

    ``labels`` (n,) int64: the class that each sample was asked for, in the reference's numbers, for those that need
    "classes".
    """

    n: int
    extractor: Extractor
    bootstrap: int = 0
    labels: Tensor | None = None


@dataclass(frozen=True)
class ReferenceStats:
    """What samples are compared with: a Gaussian of "features" and "spatial", where the network has it, and rows.

    ``probe`` knows its classes, for metrics that need them.
    """

    gaussians: Mapping[str, Gaussian]
    buffers: Mapping[str, FeatureBuffer]
    probe: Probe | None = None

    def rows(self, feature: str) -> Tensor:
        """(M, D) float32: of all images of the reference, or of 50,000 drawn from them."""
        return self.buffers[feature].rows()


class Metric(ABC):
    """An `Accumulator` of the samples that ends in scores. ``name`` is what ``--metrics`` calls it.

    ``needs`` says what it needs of the reference: "images" keeps the rows of ``feature`` of its images for `compute`,
    "statistics" its Gaussian, "classes" a probe that knows the classes of its images; "nothing" is for scores of the
    samples alone.
    """

    name: ClassVar[str]
    feature: str = "features"
    needs: ClassVar[Needs] = "statistics"
    smallest_n: ClassVar[int] = 2  # images on both sides; no metric is asked about fewer than two
    is_distance: ClassVar[bool] = False  # whether its score is the result's ``distance``

    @abstractmethod
    def __init__(self, setup: MetricSetup) -> None:
        """``setup`` is there to be read; nothing has to be kept."""

    @abstractmethod
    def update(self, rows_BD: Tensor, first: int) -> None: ...

    @abstractmethod
    def merge(self, other: Any) -> None: ...

    @abstractmethod
    def compute(self, reference: ReferenceStats) -> dict[str, float]:
        """Scores by their names on Inception's features; "X std" is shown as X's spread."""

    def interval(self, reference: ReferenceStats) -> FidInfinity | None:
        """How much of the score is the number of samples, where the metric can tell."""
        return None

    def score_name(self, extractor: Extractor, score: str) -> str:
        """What ``score`` is called on these features."""
        return extractor.score_name(score)

    def recognition(self, reference: ReferenceStats, names: Sequence[str], score: str) -> Recognition | None:
        """Which classes are recognised, ``names`` theirs, of a metric that is about classes; ``score`` is its name."""
        return None

    def examples(self, reference: ReferenceStats, among: Tensor) -> Mapping[tuple[int, int], int]:
        """A sample, of those numbered ``among``, for each pair of a class asked for and one recognised."""
        return {}


class RowsMetric(Metric):
    """A metric that keeps all rows of the samples, and wants the reference's. Memory: 4 * n * D bytes."""

    needs: ClassVar[Needs] = "images"

    def __init__(self, setup: MetricSetup) -> None:
        self._kept = FeatureBuffer(self.feature)

    def update(self, rows_BD: Tensor, first: int) -> None:
        self._kept.update(rows_BD, first)

    def merge(self, other: "RowsMetric") -> None:
        self._kept.merge(other._kept)

    def rows(self) -> Tensor:
        """(n, D) float32, the samples'."""
        return self._kept.rows()


def choose_metrics(names: Sequence[str], network: type[Extractor]) -> list[type[Metric]]:
    """The classes, each once; "all" are those that the network has the features for.

    Raises DiscliError for a name that none has, and for one whose features the network lacks.
    """
    there = plugins(FOLDER, FIRST)
    wanted = [*dict.fromkeys(name for name in names if name not in (*there, "all")), *there]
    chosen: list[type[Metric]] = [
        find_plugin(FOLDER, FIRST, "--metrics", name).load() for name in wanted if name in names or "all" in names
    ]
    lacking = [metric for metric in chosen if metric.feature not in (*network.provides, "images")]
    if lacking and "all" not in names:
        raise DiscliError(
            f"--metrics {lacking[0].name} needs {lacking[0].feature}, which --features {network.name} lacks.",
            "Score with --features inception, or leave it out.",
        )
    return [metric for metric in chosen if metric not in lacking]


OWN_TEACHER = " (its teacher's own features: not comparable)"  # behind the name of a score


def named_scores(metric: Metric, extractor: Extractor, reference: ReferenceStats) -> dict[str, float]:
    """The scores of a metric by the names that they may be called by. Raises DiscliError for NaN and infinity."""
    found = {}
    for score, value in metric.compute(reference).items():
        name = metric.score_name(extractor, score.removesuffix(" std"))
        if extractor.own_teacher:
            name += OWN_TEACHER
        name += " std" * score.endswith(" std")
        if not math.isfinite(value):
            raise DiscliError(f"{name} is {value}.", f"Score more samples, or leave {metric.name} out.", status=1)
        found[name] = float(value)
    return found


def measure(
    batches: Iterable[Tensor],
    extractor: Extractor,
    accumulators: Sequence[Accumulator],
    each_batch: Callable[[int], None] = lambda _count: None,
    first: int = 0,
) -> int:
    """Feed all accumulators with the features of all images, the first of them number ``first``; gives the next number.

    Raises DiscliError for a feature that is not finite, before any accumulator sees it.
    """
    with torch.inference_mode():
        for images in batches:
            features = {**extractor(images), "images": images}
            for name in {each.feature for each in accumulators}:
                bad = ~torch.isfinite(features[name]).all(dim=1)
                if bad.any():
                    raise DiscliError(
                        f"Image {first + int(bad.nonzero()[0])}: its {extractor.name} {name} are not finite (NaN).",
                        "The weights of the feature network are corrupt or not trained ones: check --weights.",
                    )
            for each in accumulators:
                each.update(features[each.feature], first)
            first += len(images)
            each_batch(len(images))
    return first
