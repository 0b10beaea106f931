"""Mean and covariance of a stream of feature rows, in float64, in pieces that can be merged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from discli.runtime.errors import DiscliError

_MOST_BYTES = 4e9


@dataclass(frozen=True)
class Gaussian:
    """What a Frechet distance compares: mean (D,), covariance (D, D), both float64, on the CPU.

    ``n`` is how many rows they were estimated from; None where the file they come from does not say.
    """

    mean: Tensor
    covariance: Tensor
    n: int | None

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def singular(self) -> bool:
        """Fewer rows than it takes to span the space: n rows span at most n - 1 directions."""
        return self.n is not None and self.n <= self.dim


class Moments:
    """Count, mean (D,) and scatter (D, D) = sum of (x - mean)(x - mean)^T of all rows so far.

    Batches, and partial results of other processes, are combined exactly (Chan, Golub and LeVeque,
    1983, "Algorithms for computing the sample variance"), so the order and the batch size change
    nothing but rounding. Memory: D * D float64, whatever the number of rows.
    """

    def __init__(self, dim: int, feature: str = "features") -> None:
        self.feature = feature
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, rows_BD: Tensor, first: int = 0) -> None:
        rows = rows_BD.double()
        mean = rows.mean(dim=0)
        centred = rows - mean
        self._combine(len(rows), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> None:
        self._combine(other.n, other.mean, other.scatter)

    def _combine(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if n == 0:
            return
        total = self.n + n
        gap = mean - self.mean
        self.scatter += scatter
        self.scatter.addr_(gap, gap, alpha=self.n * n / total)
        self.mean += gap * (n / total)
        self.n = total

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance (divisor n - 1, as numpy.cov); needs two rows."""
        assert self.n >= 2, f"a covariance needs two rows, not {self.n}"
        return Gaussian(self.mean.clone(), self.scatter / (self.n - 1), self.n)


class PerClassMoments:
    """Moments of each class; ``labels`` (n,) int64 gives the class of each image in the stream.

    Memory: 8 * classes * D * D bytes. Raises DiscliError where that is more than 4 GB.
    """

    def __init__(self, labels: Tensor, dim: int, feature: str = "features") -> None:
        self.feature = feature
        self._labels = labels
        classes = sorted(set(labels.tolist()))
        need = 8.0 * len(classes) * dim**2
        if need > _MOST_BYTES:
            raise DiscliError(
                f"--per-class: covariances of {len(classes):,} classes in {dim:,} dimensions take {need / 1e9:.0f} GB.",
                "Score classes with --features random (160 dimensions), or leave --per-class out.",
            )
        self.classes = {label: Moments(dim, feature) for label in classes}

    def update(self, rows_BD: Tensor, first: int) -> None:
        labels = self._labels[first : first + len(rows_BD)]
        for label in set(labels.tolist()):
            self.classes[label].update(rows_BD[torch.eq(labels, label)])

    def merge(self, other: "PerClassMoments") -> None:
        for label, moments in self.classes.items():
            moments.merge(other.classes[label])
