"""One block: long skip, residual sum, norm, mixer; and once more without the skip where an MLP follows the mixer."""

import torch
from torch import Tensor, nn

from discli.model.mixers import Mixer
from discli.model.mlp import Mlp
from discli.model.modulation import Modulation
from discli.model.skips import Skip


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, in float32 or wider."""

    def __init__(self, embed_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(embed_dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class Block(nn.Module):
    """One layer, pre-norm with two streams: ``hidden`` is the last mixer's output, ``residual`` the running sum.

    The long skip joins mixer outputs, not sums as in U-ViT: arXiv:2402.05608's code does so.
    """

    layers = 1

    def __init__(self, embed_dim: int, mixer: Mixer | Mlp, skip: Skip | None, modulation: Modulation | None) -> None:
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
        drop_path: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """hidden, skipped (B, L, D); condition (B, D); drop_path (1, B) factors. Returns both streams, (B, L, D)."""
        if self.skip is not None:
            hidden = self.skip(hidden, skipped)
        residual = add_residual(residual, hidden, None if drop_path is None else drop_path[0])
        normed = self.norm(residual)
        if self.modulation is not None:
            return self.modulation(normed, condition, self.mixer), residual
        return self.mixer(normed), residual


class PairedBlock(nn.Module):
    """Two layers as one block: tokens mix, then channels. What leaves it as ``hidden`` is the second's output."""

    layers = 2

    def __init__(self, token_mixing: Block, channel_mixing: Block) -> None:
        super().__init__()
        self.token_mixing = token_mixing
        self.channel_mixing = channel_mixing

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None,
        skipped: Tensor | None,
        condition: Tensor | None,
        drop_path: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """As `Block.forward`, with drop_path (2, B)."""
        hidden, residual = self.token_mixing(hidden, residual, skipped, condition, drop_path)
        streams: tuple[Tensor, Tensor] = self.channel_mixing(
            hidden, residual, None, condition, None if drop_path is None else drop_path[1:]
        )
        return streams


def add_residual(residual: Tensor | None, hidden: Tensor, drop_path: Tensor | None) -> Tensor:
    """residual + drop_path * hidden, (B, L, D) and (B,), in float32 or wider, whatever autocast made of hidden."""
    wide = hidden if hidden.dtype == torch.float64 else hidden.float()
    if residual is None:
        return wide
    return residual + (wide if drop_path is None else drop_path.to(wide.dtype)[:, None, None] * wide)
