"""Images for a score card: some of the samples, kept as they pass, and the reference images nearest to a few."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from discli.data.contact_sheet import on_pages
from discli.evaluation.extractor import Extractor
from discli.evaluation.images import ImageSet
from discli.evaluation.metric import FeatureBuffer

_GRID = 64
_QUERIES = 8
_NEIGHBOURS = 5
_EXAMPLES, _EXAMPLE_BYTES = 2_000, 64_000_000  # kept of the samples, to show some that are mistaken


class CardImages:
    """What `discli.evaluation.evaluate.evaluate` leaves in here for a score card.

        ``samples`` (N, 3, H, W) uint8, N = 64 at most, spread evenly over all. ``nearest``, where the reference has
        images: those of them that are most like copies (Q, 3, H, W), for each the 5 reference images nearest in feature
    space (Q, 5, 3, H, W), and how far they are (Q, 5). ``examples``, where classes are recognised: by the names of
    the class asked for and the class recognised, a sample (3, H, W).
    """

    samples: Tensor
    nearest: tuple[Tensor, Tensor, Tensor] | None = None
    examples: Mapping[tuple[str, str], Tensor] = MappingProxyType({})
    among: Tensor  # which samples `examples` are chosen from

    def passing(self, n: int) -> FeatureBuffer:
        """Keeps images of a stream of ``n`` as they pass: a run's would have to be drawn again."""
        return FeatureBuffer("images", torch.tensor(_spread(range(n), _GRID)))

    def passing_examples(self, n: int, size: tuple[int, int]) -> FeatureBuffer:
        """Keeps more of them, 64 MB at most, of which `show_examples` shows some."""
        most = max(1, min(_EXAMPLES, _EXAMPLE_BYTES // (3 * size[0] * size[1])))
        self.among = torch.tensor(_spread(range(n), most))
        return FeatureBuffer("images", self.among)

    def show_examples(self, chosen: Mapping[tuple[int, int], int], names: Sequence[str], passed: FeatureBuffer) -> None:
        """``chosen``: the number of a sample for each pair of classes, one of `among`."""
        if chosen:
            rows, place = passed.rows(), {number: row for row, number in enumerate(self.among.tolist())}
            self.examples = {
                (names[asked], names[found]): rows[place[number]].to(torch.uint8)
                for (asked, found), number in chosen.items()
            }

    def neighbours(self, extractor: Extractor) -> "Nearest":
        """Finds those of some of `samples` while the reference passes."""
        return Nearest(extractor(self.samples)["features"], _NEIGHBOURS)

    def show(self, found: "Nearest", reference: ImageSet) -> None:
        """Fetches the images that ``found`` names."""
        first = found.likest_copies()[:_QUERIES]
        wanted, place = torch.unique(found.indices[first], return_inverse=True)
        images = on_pages(list(reference.batches(wanted.tolist(), len(wanted)))).cpu()
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
