"""The nearest reference images of a few samples, found while the reference streams by."""

import torch
from torch import Tensor


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

    def _add(self, distances: torch.Tensor, indices: torch.Tensor) -> None:
        distances = torch.cat([self.distances, distances], dim=1)
        indices = torch.cat([self.indices, indices], dim=1)
        nearest = distances.argsort(dim=1, stable=True)[:, : self._k]
        self.distances, self.indices = distances.gather(1, nearest), indices.gather(1, nearest)
