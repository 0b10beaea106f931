"""What a person sees of small images, by their nearest neighbours among real ones: is it the class that was asked
for, do images of a class differ as real ones do, are they copies?

Distances are Euclidean, between pixels, which says something only where images are small and aligned, such as
digits; larger ones want features (`discli.evaluation.metrics`).
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from discli.evaluation.images import ImageSet
from discli.runtime.errors import DiscliError

NEIGHBOURS = 3
HELD_OUT = 10  # every so many of a class's real images
NEAR = 0.01  # quantile
_TOGETHER = 256  # rows of distances


class Look(BaseModel):
    """Of ``n`` images.

    ``recognised``: share that a vote of the ``NEIGHBOURS`` nearest real images takes for the class asked for.
    ``variety``: mean distance between two images of a class / that of real images, averaged over classes; None
    where no class has two images.
    ``memorised``: share whose nearest real image is as near as only one in a hundred real images of that class
    has another of its class (the quantile ``NEAR`` of their distances to their nearest).
    """

    model_config = ConfigDict(frozen=True)

    n: int
    recognised: float
    variety: float | None
    memorised: float


class LookResult(BaseModel):
    """Samples, and real images that were held out of the real ones that they were compared with."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    samples: Look
    held_out: Look


def look_at_samples(samples: ImageSet, real: ImageSet) -> LookResult:
    """``samples`` beside ``real``. Raises DiscliError where there are no classes, and for images of other sizes."""
    if samples.size != real.size:
        raise DiscliError(
            f"{samples.path} and {real.path} hold images of different sizes.", "Compare images with those of their run."
        )
    (drawn, asked), (pixels, classes) = _rows(samples), _rows(real)
    held_out = torch.zeros(len(classes), dtype=torch.bool)
    for label in classes.unique():
        held_out[(classes == label).nonzero()[HELD_OUT - 1 :: HELD_OUT, 0]] = True
    if not held_out.any():
        raise DiscliError(
            f"{real.path} has no class of {HELD_OUT} images.", "Compare with more images: some are held out of them."
        )
    kept = Real(pixels[~held_out], classes[~held_out])
    return LookResult(
        samples=Real(pixels, classes).look_at(drawn, asked),
        held_out=kept.look_at(pixels[held_out], classes[held_out]),
    )


class Real:
    """Real images (N, D) and their classes (N,) int64."""

    def __init__(self, pixels_ND: Tensor, classes_N: Tensor) -> None:
        self.pixels, self.classes = pixels_ND.float(), classes_N
        self._near: dict[int, float] = {}
        self._apart: dict[int, float] = {}
        for label in classes_N.unique().tolist():
            of_class = self.pixels[classes_N == label]
            if len(of_class) > 1:
                self._near[label] = float(
                    torch.cat([d[:, 1] for d, _ in _nearest(of_class, of_class, 2)]).quantile(NEAR)
                )
                self._apart[label] = _mean_distance(of_class)

    def look_at(self, images_BD: Tensor, asked_B: Tensor) -> Look:
        """`Look` at (B, D) images, and the classes (B,) that were asked for. Memory: a few hundred * N."""
        images = images_BD.float()
        found = list(_nearest(images, self.pixels, min(NEIGHBOURS, len(self.pixels))))
        distances, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
        voted = _vote(self.classes[indices])
        near = torch.tensor([self._near.get(label, 0.0) for label in self.classes[indices[:, 0]].tolist()])
        ratios = [
            _mean_distance(images[asked_B == label]) / self._apart[label]
            for label in asked_B.unique().tolist()
            if label in self._apart and (asked_B == label).sum() > 1
        ]
        return Look(
            n=len(images),
            recognised=float((voted == asked_B).double().mean()),
            variety=sum(ratios) / len(ratios) if ratios else None,
            memorised=float((distances[:, 0] <= near).double().mean()),
        )


def _rows(images: ImageSet) -> tuple[Tensor, Tensor]:
    """(N, D) uint8 pixels and (N,) classes."""
    if images.labels is None:
        raise DiscliError(f"{images.path} has no classes.", "Compare samples of a class-conditional run.")
    if images.size is None:
        raise DiscliError(
            f"{images.path} holds images of several sizes, whose pixels do not compare.", "Take one size."
        )
    batches = [batch.flatten(1).cpu() for batch in images.batches(range(images.n), _TOGETHER)]
    return torch.cat(batches), images.labels.cpu()


def _vote(classes_BK: Tensor) -> Tensor:
    """(B,): the commonest of each row's classes, nearest first; of equally common ones the nearest."""
    same_BKK = classes_BK[:, :, None] == classes_BK[:, None, :]
    commonest_B1 = same_BKK.sum(dim=2).argmax(dim=1, keepdim=True)  # the first of equals
    return classes_BK.gather(1, commonest_B1)[:, 0]


def _nearest(rows_BD: Tensor, among_ND: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Distances and indices (b, k) of the k nearest of ``among``, nearest first, for some rows after others."""
    for some in rows_BD.split(_TOGETHER):
        # Products would leave a copy at a distance above 0.
        distances = torch.cdist(some, among_ND, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.topk(k, largest=False)
        yield nearest.values, nearest.indices


def _mean_distance(rows_BD: Tensor) -> float:
    """Between two different ones."""
    return float(torch.pdist(rows_BD).mean())
