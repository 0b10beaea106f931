"""Images for a score card: some of the samples, kept as they pass, and the reference images nearest to a few."""

from collections.abc import Sequence

import torch
from torch import Tensor

from discli.evaluation.extractor import Extractor
from discli.evaluation.images import ImageSet
from discli.evaluation.metric import FeatureBuffer

_GRID = 64
_QUERIES = 8
_NEIGHBOURS = 5


class CardImages:
    """What `discli.evaluation.evaluate.evaluate` leaves in here for a score card.

    ``samples`` (N, 3, H, W) uint8, N = 64 at most, spread evenly over all. ``nearest``, where the reference has
    images: those of them that are most like copies (Q, 3, H, W), for each the 5 reference images nearest in feature
    space (Q, 5, 3, H, W), and how far they are (Q, 5).
    """

    samples: Tensor
    nearest: tuple[Tensor, Tensor, Tensor] | None = None

    def passing(self, n: int) -> FeatureBuffer:
        """Keeps images of a stream of ``n`` as they pass: a run's would have to be drawn again."""
        return FeatureBuffer("images", torch.tensor(_spread(range(n), _GRID)))

    def neighbours(self, extractor: Extractor) -> "Nearest":
        """Finds those of some of `samples` while the reference passes."""
        return Nearest(extractor(self.samples)["features"], _NEIGHBOURS)

    def show(self, found: "Nearest", reference: ImageSet) -> None:
        """Fetches the images that ``found`` names."""
        first = found.likest_copies()[:_QUERIES]
        wanted, place = torch.unique(found.indices[first], return_inverse=True)
        images = torch.cat(list(reference.batches(wanted.tolist(), len(wanted)))).cpu()
        self.nearest = self.samples[first], images[place], found.distances[first]


class Nearest:
    """For each of Q queries (Q, D) the k nearest rows of a stream: distances and indices, (Q, k), nearest first.

    A sample that sits on top of a training image in feature space is memorised. Memory: Q * k.
    """

    def __init__(self, queries_QD: Tensor, k: int, feature: str = "features") -> None:
        self.feature = feature
        self._queries = queries_QD.double()
        self._k = k
        self.distances = torch.empty(len(queries_QD), 0, dtype=torch.float64)
        self.indices = torch.empty(len(queries_QD), 0, dtype=torch.int64)

    def update(self, rows_BD: Tensor, first: int) -> None:
        distances = torch.cdist(self._queries, rows_BD.double(), compute_mode="donot_use_mm_for_euclid_dist")
        self._add(distances, torch.arange(first, first + len(rows_BD)).expand(len(self._queries), -1))

    def merge(self, other: "Nearest") -> None:
        self._add(other.distances, other.indices)

    def likest_copies(self) -> Tensor:
        """(Q,) queries, that first which is nearest to one row in comparison with the second nearest."""
        if self.distances.shape[1] < 2:
            return torch.arange(len(self.distances))
        ratios = self.distances[:, 0] / self.distances[:, 1].clamp(min=1e-30)
        return ratios.argsort(stable=True)

    def _add(self, distances: torch.Tensor, indices: torch.Tensor) -> None:
        distances = torch.cat([self.distances, distances], dim=1)
        indices = torch.cat([self.indices, indices], dim=1)
        nearest = distances.argsort(dim=1, stable=True)[:, : self._k]
        self.distances, self.indices = distances.gather(1, nearest), indices.gather(1, nearest)


def _spread(indices: Sequence[int], most: int) -> list[int]:
    """Evenly over all: the first of a folder sorted by class would be one class."""
    count = min(len(indices), most)
    return [indices[place * len(indices) // count] for place in range(count)]
