"""A small classifier of CIFAR-10 as a feature network: it comes with the package, and needs no download."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, CLASSES, FEATURES = 32, 10, 128
_WIDTHS, _RESIDUALS = (32, 96, FEATURES), (1, 2, 1)
_WHITENED = 24  # channels: each of the 12 directions of a 2 x 2 patch of RGB, and its opposite


class Stage(nn.Module):
    """Halves the image, then adds what 3 x 3 convolutions find (arXiv:1512.03385)."""

    def __init__(self, width_in: int, width: int, residuals: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.residuals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
            for _ in range(residuals)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(F.max_pool2d(self.conv(x), 2)))
        for residual in self.residuals:
            x = x + F.relu(residual(x))
        return x


class Cifar10Classifier(nn.Module):
    """(B, 3, 32, 32) in -1..1 to (B, 10), in 470,000 parameters; ``pooled`` is what it knows before it decides.

    The first convolution tells apart what differs most in the training images, and is not trained (airbench,
    arXiv:2404.00498); three stages of widths 32, 96 and 128 follow, and the mean over the places that are left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, _WHITENED, 2)
        self.whiten.weight.requires_grad_(False)
        widths = (_WHITENED, *_WIDTHS)
        self.stages = nn.Sequential(*(Stage(*each) for each in zip(widths[:-1], _WIDTHS, _RESIDUALS, strict=True)))
        self.head = nn.Linear(FEATURES, CLASSES)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, 128)."""
        found: Tensor = self.stages(F.relu(self.whiten(x))).mean(dim=(2, 3))
        return found

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.pooled(x))
        return scores
