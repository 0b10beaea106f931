"""The share of samples that are copies of a reference image."""

import torch
from scipy import stats
from torch import Tensor

from discli.evaluation.metric import ReferenceStats, RowsMetric

RATIO = 1 / 3
_LEVEL = 0.95
_ROWS = 1_000  # of distances at once: 4 bytes for each of them and each reference image


class Copies(RowsMetric):
    """Memorised samples: those three times nearer to one reference image than to any other.

    The criterion of arXiv:2505.17638 and others before it, on the network's features instead of pixels. A copy of
    one of two equal reference images is not counted, and a mirrored copy only as far as the features do not mind.
    The interval is Clopper and Pearson's.
    """

    name = "copies"
    smallest_n = 2

    def compute(self, reference: ReferenceStats) -> dict[str, float]:
        ratios = nearness(self.rows(), reference.rows(self.feature))
        count, n = int((ratios < RATIO).sum()), len(ratios)
        low, high = share_interval(count, n)
        return {"copied share": count / n, "copied share, 95% low": low, "copied share, 95% high": high}


def nearness(samples_ND: Tensor, reference_MD: Tensor) -> Tensor:
    """(N,) float64 in [0, 1]: distance to the nearest reference image / to the second nearest; 1 if both are 0."""
    found = []
    for rows in samples_ND.split(_ROWS):
        # By differences: through a product the distance of a copy would be lost to rounding.
        near = torch.cdist(rows, reference_MD).topk(8 if len(reference_MD) >= 8 else 2, largest=False).indices
        exact = (rows[:, None].double() - reference_MD[near].double()).norm(dim=2).sort(dim=1).values[:, :2]
        found.append(torch.where(exact[:, 1] > 0, exact[:, 0] / exact[:, 1].clamp(min=1e-300), 1.0))
    return torch.cat(found)


def share_interval(count: int, n: int, level: float = _LEVEL) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share, ``count`` of ``n``."""
    beside = (1 - level) / 2
    low = 0.0 if count == 0 else float(stats.beta.ppf(beside, count, n - count + 1))
    high = 1.0 if count == n else float(stats.beta.ppf(1 - beside, count + 1, n - count))
    return low, high
