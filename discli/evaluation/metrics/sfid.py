"""sFID (arXiv:2103.03841)."""

from torch import Tensor

from discli.evaluation.frechet import frechet_distance
from discli.evaluation.metric import Metric, MetricSetup, ReferenceStats
from discli.evaluation.moments import Moments


class SpatialFrechetDistance(Metric):
    """sFID: Frechet distance of spatial features, for layout rather than content."""

    name = "sfid"
    feature = "spatial"

    def __init__(self, setup: MetricSetup) -> None:
        self._moments = Moments(setup.extractor.dims[self.feature], self.feature)

    def update(self, rows_BD: Tensor, first: int) -> None:
        self._moments.update(rows_BD, first)

    def merge(self, other: "SpatialFrechetDistance") -> None:
        self._moments.merge(other._moments)

    def compute(self, reference: ReferenceStats) -> dict[str, float]:
        return {"sFID": frechet_distance(self._moments.gaussian(), reference.gaussians[self.feature])}
