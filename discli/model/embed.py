"""Images to tokens and back, and timesteps to vectors."""

import math

import torch
from torch import Tensor, nn


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


def unpatchify(tokens: Tensor, patch_size: int) -> Tensor:
    """(B, h*w, p*p*C), channel fastest inside a patch, to (B, C, h*p, w*p); h = w."""
    B, L, width = tokens.shape
    side, p = math.isqrt(L), patch_size
    C = width // (p * p)
    grid = tokens.reshape(B, side, side, p, p, C)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(B, C, side * p, side * p)
