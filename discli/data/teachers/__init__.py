"""Networks that `encode --features` can let see the images: one file each."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from discli.recipe.contract import FeatureGrid
from discli.recipe.size import Size


class Teacher(ABC):
    """What a network makes of images, as a grid of vectors for alignment."""

    name: str  # what --features calls it

    @abstractmethod
    def __init__(self, resolution: Size, device: torch.device | str = "cpu") -> None:
        """``resolution`` of the images in px.

        Raises DiscliError for images that it cannot take, and where its weights are missing or others.
        """

    @property
    @abstractmethod
    def grid(self) -> FeatureGrid:
        """What a data file records of it."""

    @abstractmethod
    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 to (B, rows, columns, channels), on the network's device, without gradients."""
