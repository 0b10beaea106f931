"""A linear classifier on a feature network, fitted on the reference: does a sample look like what was asked for?

Linear discriminant analysis (Fisher, 1936; Hastie, Tibshirani and Friedman, "The elements of statistical learning",
4.3) with a ridge on the covariance that all classes share: a multinomial model in closed form. It needs sums over
the reference alone, so the reference may be of any size, and its order, batches and processes change nothing but
rounding. Every class counts the same, however many images it has.
"""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from discli.runtime.files import write_beside

_HELD_OUT = 0.1
_MOST_HELD_OUT = 10_000  # images; their features are kept while the probe is fitted
VERSION = 1  # of what is stored; another way of fitting needs another


@dataclass(frozen=True)
class Probe:
    """Scores of K classes are ``rows @ weights + bias``; the greatest is the class recognised."""

    weights: Tensor  # (D, K) float64
    bias: Tensor  # (K,) float64, -inf for a class without images
    confusion: Tensor  # (K, K) int64 of held-out images: the class that it is, the class recognised

    def __call__(self, rows_BD: Tensor) -> Tensor:
        """(B, D) to log-probabilities (B, K), float64."""
        return (rows_BD.double() @ self.weights + self.bias).log_softmax(dim=1)


class ProbeFit:
    """Takes in the reference's features with their classes; a tenth of each class is held out, chosen by seed 0.

    Memory: (D + K) * D float64, and the held-out rows, 10,000 at most.
    """

    def __init__(self, labels: Tensor, classes: int, dim: int, feature: str = "features") -> None:
        self.feature = feature
        self._labels = labels.long()
        self._held_out = held_out(self._labels)
        self._count = torch.zeros(classes, dtype=torch.float64)
        self._sums = torch.zeros(classes, dim, dtype=torch.float64)
        self._products = torch.zeros(dim, dim, dtype=torch.float64)
        self._rows: list[tuple[Tensor, Tensor]] = []

    def update(self, rows_BD: Tensor, first: int) -> None:
        labels = self._labels[first : first + len(rows_BD)]
        aside = self._held_out[first : first + len(rows_BD)]
        self._rows.append((rows_BD[aside].float().cpu(), labels[aside]))
        rows, labels = rows_BD[~aside].double().cpu(), labels[~aside]
        self._count += labels.bincount(minlength=len(self._count))
        self._sums.index_add_(0, labels, rows)
        self._products += rows.T @ rows

    def merge(self, other: "ProbeFit") -> None:
        self._count += other._count
        self._sums += other._sums
        self._products += other._products
        self._rows += other._rows

    def fit(self) -> Probe:
        means = self._sums / self._count.clamp(min=1)[:, None]
        scatter = self._products - (means * self._count[:, None]).T @ means
        within = scatter / max(1.0, float(self._count.sum() - (self._count > 0).sum()))
        # Of the mean variance, added to each. On CIFAR-10 with 1,280 features the best was about 1 with 1,000 images,
        # 0.3 with 5,000, 0.01 to 0.1 with 20,000, where it hardly matters.
        ridge = len(within) / max(1.0, float(self._count.sum()))
        within.diagonal().add_(ridge * within.diagonal().mean() + 1e-12)
        weights = torch.linalg.solve(within, means.T)
        bias = -0.5 * (means.T * weights).sum(dim=0)
        bias[self._count == 0] = -torch.inf
        empty = Probe(weights, bias, torch.zeros(0))
        rows, labels = (torch.cat(parts) for parts in zip(*self._rows, strict=True))
        return Probe(weights, bias, confusion(labels, empty(rows).argmax(dim=1), len(bias)))


def held_out(labels: Tensor) -> Tensor:
    """(n,) bool: a tenth of each class, no fewer than one where it has two, and 10,000 in all at most."""
    share = min(_HELD_OUT, _MOST_HELD_OUT / max(1, len(labels)))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    by_class = order[labels[order].argsort(stable=True)]
    counts = labels.bincount()
    aside = torch.zeros(len(labels), dtype=torch.bool)
    for members in by_class.split(counts.tolist()):
        if len(members) > 1:
            aside[members[: max(1, round(share * len(members)))]] = True
    return aside


def confusion(asked: Tensor, recognised: Tensor, classes: int) -> Tensor:
    """(K, K) counts: row the class asked for, column the class recognised."""
    return (asked * classes + recognised).bincount(minlength=classes**2).view(classes, classes)


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% interval of a share (Wilson, 1927): (0, 1) where nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    centre, spread = right + z * z / 2, z * (right * (n - right) / n + z * z / 4) ** 0.5
    return max(0.0, (centre - spread) / (n + z * z)), min(1.0, (centre + spread) / (n + z * z))


def write_probe(path: Path, probe: Probe) -> None:
    """Whole or not there. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(probe, name).numpy() for name in ("weights", "bias", "confusion")}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, version=np.array(VERSION), **arrays)

    write_beside(path, write)


def read_probe(path: Path) -> Probe | None:
    """None where there is none, or one that cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if int(arrays["version"]) != VERSION:
                return None
            return Probe(*(torch.from_numpy(arrays[name]) for name in ("weights", "bias", "confusion")))
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
