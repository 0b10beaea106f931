"""One block: long skip, residual sum, norm, mixer."""

import torch
from torch import Tensor, nn

from discli.model.mixer import BidirectionalMamba


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, in float32 or wider."""

    def __init__(self, embed_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(embed_dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class Block(nn.Module):
    """Pre-norm with two streams: ``hidden`` is the last mixer's output, ``residual`` the running sum.

    The long skip joins mixer outputs, not sums as in U-ViT: arXiv:2402.05608's code does so.
    """

    def __init__(
        self, embed_dim: int, mixer: BidirectionalMamba, skip: nn.Module | None, modulation: nn.Module | None
    ) -> None:
        super().__init__()
        self.skip = skip
        self.norm = RMSNorm(embed_dim)
        self.modulation = modulation
        self.mixer = mixer

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None,
        skipped: Tensor | None,
        condition: Tensor | None,
        keep: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """hidden, skipped (B, L, D); condition (B, D); keep (B,) drop-path factors. Returns both streams."""
        if self.skip is not None:
            hidden = self.skip(hidden, skipped)
        residual = add_residual(residual, hidden, keep)
        normed = self.norm(residual)
        if self.modulation is not None:
            return self.modulation(normed, condition, self.mixer), residual
        return self.mixer(normed), residual


def add_residual(residual: Tensor | None, hidden: Tensor, keep: Tensor | None) -> Tensor:
    """residual + keep * hidden in float32 or wider, whatever autocast made of hidden."""
    wide = hidden if hidden.dtype == torch.float64 else hidden.float()
    if residual is None:
        return wide
    return residual + (wide if keep is None else keep.to(wide.dtype)[:, None, None] * wide)
