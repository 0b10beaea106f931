"""FID, and the Frechet distance on other features than Inception's."""

from torch import Tensor

from discli.evaluation.fid_infinity import SIZES, SMALLEST_N, BlockMoments, fid_infinity
from discli.evaluation.frechet import frechet_distance
from discli.evaluation.metric import Metric, MetricSetup, ReferenceStats
from discli.evaluation.moments import Moments
from discli.runs.eval_result import FidInfinity
from discli.runtime.console import progress


class FrechetInceptionDistance(Metric):
    """Frechet distance of features, with an interval and its value at infinite n."""

    name = "fid"
    is_distance = True

    def __init__(self, setup: MetricSetup) -> None:
        dim = setup.extractor.dims[self.feature]
        self._bootstrap = setup.bootstrap
        blocks = setup.bootstrap > 0 and setup.n >= SMALLEST_N
        self._moments = BlockMoments(setup.n, dim) if blocks else Moments(dim)

    def update(self, rows_BD: Tensor, first: int) -> None:
        self._moments.update(rows_BD, first)

    def merge(self, other: "FrechetInceptionDistance") -> None:
        self._moments.merge(other._moments)  # type: ignore[arg-type]

    def compute(self, reference: ReferenceStats) -> dict[str, float]:
        return {"FID": frechet_distance(self._moments.gaussian(), reference.gaussians[self.feature])}

    def interval(self, reference: ReferenceStats) -> FidInfinity | None:
        if not isinstance(self._moments, BlockMoments):
            return None
        with progress("interval", SIZES + self._bootstrap, "distances") as ticker:
            return fid_infinity(self._moments, reference.gaussians[self.feature], self._bootstrap, each=ticker.advance)
