"""Images to tokens and back, and timesteps to vectors."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.order import Placed
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


class Positions(Placed):
    """Position embeddings, learned on one grid, for the one that is laid out."""

    down: Tensor | None
    across: Tensor | None

    def __init__(self, learned: Size) -> None:
        super().__init__()
        self.learned = learned
        self.register_buffer("down", None, persistent=False)
        self.register_buffer("across", None, persistent=False)

    def lay_out(self, grid: Size, device: torch.device | str = "cpu") -> None:
        super().lay_out(grid, device)
        self.down, self.across = (None, None) if grid == self.learned else _resizes(self.learned, grid, device)

    def leave_only(self, tokens: Tensor | None) -> None:
        """They are added before any patch is left out."""

    def forward(self, positions: Tensor) -> Tensor:
        """(1, L, D), other tokens before those of the grid, to the L of the grid as it is."""
        if self.down is None or self.across is None:
            return positions
        return _resized(positions, self.learned, self.down, self.across)


def resized_positions(positions: Tensor, old: Size, new: Size) -> Tensor:
    """(1, L, D), other tokens before the ``old`` grid's: those stay, the grid's become ``new``'s, bicubic.

    As for ViT (arXiv:2010.11929, section 3.2), from edge to edge, whatever the shapes are.
    """
    return _resized(positions, old, *_resizes(old, new, positions.device))


def _resized(positions: Tensor, old: Size, down: Tensor, across: Tensor) -> Tensor:
    """Products instead of F.interpolate, whose gradient a GPU adds up in no order; as precise as positions are."""
    others, of_grid = positions[:, : -old.area], positions[:, -old.area :].unflatten(1, old)
    with torch.autocast(positions.device.type, enabled=False):
        rows = torch.einsum("ir,brcd->bicd", down.to(positions.dtype), of_grid)
        return torch.cat([others, torch.einsum("jc,bicd->bijd", across.to(rows.dtype), rows).flatten(1, 2)], dim=1)


def _resizes(old: Size, new: Size, device: torch.device | str) -> tuple[Tensor, Tensor]:
    return _bicubic(old.height, new.height, str(device)), _bicubic(old.width, new.width, str(device))


@lru_cache
def _bicubic(old: int, new: int, device: str) -> Tensor:
    """(new, old) float32: what a bicubic resize multiplies a line by, with the borders repeated."""
    with torch.inference_mode(False):  # kept for training, whoever asked first
        lines = torch.eye(old, dtype=torch.float64, device="cpu").view(old, 1, 1, old)
        resized = F.interpolate(lines, (1, new), mode="bicubic", antialias=True)
        return resized.view(old, new).T.float().contiguous().to(device)
