"""Images -> features -> meters: one pass over a stream feeds every metric."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from discli.evaluation.features.convention import Convention
from discli.runtime.errors import DiscliError


class Extractor(Protocol):
    """A network that turns uint8 images (B, 3, H, W) into named features, each (B, D) float32 on the CPU.

    ``convention`` is None where the network takes images as they are.
    """

    @property
    def name(self) -> str: ...

    @property
    def network(self) -> str:
        """In a few words, for the score card."""
        ...

    @property
    def weights_sha256(self) -> str: ...

    @property
    def convention(self) -> Convention | None: ...

    @property
    def dims(self) -> Mapping[str, int]: ...

    def __call__(self, images_BCHW: Tensor) -> Mapping[str, Tensor]: ...


class Meter(Protocol):
    """Accumulates one feature, or "images", the pixels themselves.

    ``first`` is the index in the stream of the batch's first image.

    ``merge`` takes in a meter of the same making that saw the part of the stream after this one's.
    """

    feature: str

    def update(self, rows_BD: Tensor, first: int, /) -> None: ...

    def merge(self, other: Any, /) -> None: ...


def measure(
    batches: Iterable[Tensor],
    extractor: Extractor,
    meters: Sequence[Meter],
    each_batch: Callable[[int], None] = lambda _count: None,
    first: int = 0,
) -> int:
    """Feed every meter with the features of all images, the first of them number ``first``; gives the next number.

    Raises DiscliError for a feature that is not finite, before any meter sees it.
    """
    with torch.inference_mode():
        for images in batches:
            features = {**extractor(images), "images": images}
            for name in {meter.feature for meter in meters}:
                bad = ~torch.isfinite(features[name]).all(dim=1)
                if bad.any():
                    raise DiscliError(
                        f"Image {first + int(bad.nonzero()[0])}: its {extractor.name} {name} are not finite (NaN).",
                        "The weights of the feature network are damaged or not trained ones: check --weights.",
                    )
            for meter in meters:
                meter.update(features[meter.feature], first)
            first += len(images)
            each_batch(len(images))
    return first
