"""A Frechet distance for every class on its own."""

import torch
from torch import Tensor

from discli.evaluation.metrics.moments import Moments
from discli.runtime.errors import DiscliError

_MOST_BYTES = 4e9


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
