"""Images to tokens and back, and timesteps to vectors."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from discli.recipe.size import Size


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """(B,) timesteps, whole or fractional, to (B, dim) float64: [cos, sin] (arXiv:2006.11239, app. B).

    float64, because t * frequency reaches 999 radians, where float32 has lost three digits.
    """
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float64, device=t.device) / half
    angles = t.double().unsqueeze(1) * torch.exp(-math.log(10_000.0) * exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbed(nn.Module):
    """Timestep (B,) to the time token (B, embed_dim)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(embed_dim, 4 * embed_dim)
        self.contract = nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, t: Tensor) -> Tensor:
        """(B,) to (B, embed_dim)."""
        waves = sinusoid(t, self.expand.in_features).to(self.expand.weight.dtype)
        token: Tensor = self.contract(nn.functional.silu(self.expand(waves)))
        return token


def unpatchify(tokens: Tensor, grid: Size, patch_size: int) -> Tensor:
    """(B, h*w, p*p*C) of a ``grid`` (h, w), channel fastest inside a patch, to (B, C, h*p, w*p)."""
    B, _, width = tokens.shape
    (h, w), p = grid, patch_size
    C = width // (p * p)
    patches = tokens.reshape(B, h, w, p, p, C)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(B, C, h * p, w * p)


def resized_positions(positions: Tensor, old: Size, new: Size) -> Tensor:
    """(1, L, D), other tokens before the ``old`` grid's: those stay, the grid's become ``new``'s, bicubic.

    As for ViT (arXiv:2010.11929, section 3.2), from edge to edge, whatever the shapes are.
    """
    others, of_grid = positions[:, : -old.area], positions[:, -old.area :]
    down, across = (_bicubic(*lengths, positions.device).to(positions.dtype) for lengths in zip(old, new, strict=True))
    # Products instead of F.interpolate, whose gradient a GPU adds up in no order.
    rows = torch.einsum("ir,brcd->bicd", down, of_grid.unflatten(1, old))
    return torch.cat([others, torch.einsum("jc,bicd->bijd", across, rows).flatten(1, 2)], dim=1)


@lru_cache
def _bicubic(old: int, new: int, device: torch.device) -> Tensor:
    """(new, old) float32: what a bicubic resize multiplies a line by, with the borders repeated."""
    lines = torch.eye(old, dtype=torch.float64, device="cpu").view(old, 1, 1, old)
    resized = F.interpolate(lines, (1, new), mode="bicubic", antialias=True)
    return resized.view(old, new).T.float().contiguous().to(device)
