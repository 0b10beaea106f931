"""Images and features that the tests of metrics share."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def gaussian_rows(n: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated rows (n, dim) with very unequal variances."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)) * torch.logspace(0, -2, dim)
    return torch.randn(n, dim, generator=generator) @ mixing + shift


def drawn_images(n: int, size: int, seed: int) -> Tensor:
    """(n, 3, size, size) uint8: six coloured discs, one over the other, on a coloured ground."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    images = torch.rand(n, 3, 1, 1, generator=generator).expand(-1, -1, size, size)
    for _ in range(6):
        cy, cx, radius = torch.rand(3, n, 1, 1, 1, generator=generator).unbind()
        inside = (y - cy) ** 2 + (x - cx) ** 2 < (0.05 + radius / 4) ** 2
        images = torch.where(inside, torch.rand(n, 3, 1, 1, generator=generator), images)
    return (images * 255).round().to(torch.uint8)


def with_noise(images: Tensor, sigma: float, seed: int = 0) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images.float() + sigma * noise).round().clamp(0, 255).to(torch.uint8)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with replicated edges."""
    kernel = torch.exp(-0.5 * (torch.arange(-6.0, 7.0) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = images.float().flatten(0, 1)[:, None]
    x = F.conv2d(F.pad(x, (6, 6, 6, 6), mode="replicate"), kernel.view(1, 1, 1, 13))
    x = F.conv2d(x, kernel.view(1, 1, 13, 1))
    return x.view(images.shape).round().to(torch.uint8)


def cifar(shared: Path, n: int) -> Tensor:
    """(n, 3, 32, 32) uint8 of CIFAR-10's training images, a random choice (seed 0)."""
    with zipfile.ZipFile(shared / "data" / "cifar10-train.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        chosen = np.random.default_rng(0).permutation(len(names))[:n]
        arrays = [np.array(Image.open(io.BytesIO(archive.read(names[i])))) for i in chosen]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
