"""Images that are kept in memory, or passed by without a trace."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor


class Memory:
    """Keeps the images of ``wanted`` numbers alone; None: all."""

    def __init__(self, folder: Path | None = None, wanted: Collection[int] | None = ()) -> None:
        self.wanted = wanted
        self._kept: dict[int, Tensor] = {}

    def done(self) -> set[int]:
        return set()

    def write(self, indices: Sequence[int], images: Tensor) -> None:
        for index, image in zip(indices, images, strict=True):
            if self.wanted is None or index in self.wanted:
                self._kept[index] = image

    def finish(self, n: int, labels: Sequence[int] | None) -> None:
        pass

    def read(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._kept[index] for index in indices])

    def clear(self) -> None:
        self._kept.clear()
