"""One block: long skip, residual sum, norm, mixer; and once more without the skip where an MLP follows the mixer."""

import torch
from torch import Tensor, nn

from discli.model.grid_convs import GridConv
from discli.model.mixers import Mixer
from discli.model.mlp import Mlp
from discli.model.modulation import Modulation
from discli.model.norm import RMSNorm
from discli.model.skips import Skip


class Block(nn.Module):
    """One layer, pre-norm with two streams: ``hidden`` is the last mixer's output, ``residual`` the running sum.

    The long skip joins mixer outputs, not sums as in U-ViT: arXiv:2402.05608's code does so.
    """

    layers = 1

    def __init__(
        self,
        embed_dim: int,
        mixer: Mixer | Mlp,
        skip: Skip | None,
        modulation: Modulation | None,
        grid_conv: GridConv | None = None,
    ) -> None:
        super().__init__()
        self.skip = skip
        self.norm = RMSNorm(embed_dim)
        self.modulation = modulation
        self.grid_conv = grid_conv
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
        factors = None if drop_path is None else drop_path[0]
        if self.modulation is not None:
            residual, normed = self.norm(residual, hidden, factors)
            return self.modulation(normed, condition, self._mix), residual
        # In the precision that the mixer's first product would turn it to.
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        residual, normed = self.norm(residual, hidden, factors, dtype)
        return self._mix(normed), residual

    def _mix(self, normed: Tensor) -> Tensor:
        mixed: Tensor = self.mixer(normed if self.grid_conv is None else self.grid_conv(normed))
        return mixed


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
