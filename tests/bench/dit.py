"""The yardstick: a plain DiT (arXiv:2212.09748) with adaLN-Zero, as wide as it has to be for a number of parameters."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.embed import TimeEmbed, unpatchify

HEAD_DIM = 64  # or so: a width that 64 does not divide takes the number of heads that comes closest


class DiTBlock(nn.Module):
    """Attention and an MLP of four times the width, each scaled, shifted and gated by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        divisors = [heads for heads in range(1, width + 1) if width % heads == 0]
        self.heads = min(divisors, key=lambda heads: abs(width / heads - HEAD_DIM))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x_BLD: Tensor, condition_BD: Tensor) -> Tensor:
        modulation = self.modulation(F.silu(condition_BD)).unsqueeze(1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        q, k, v = self.qkv(_norm(x_BLD) * (1 + scale1) + shift1).unflatten(-1, (3, self.heads, -1)).unbind(2)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x_BLD = x_BLD + gate1 * self.out(mixed.transpose(1, 2).flatten(2))
        moved: Tensor = x_BLD + gate2 * self.mlp(_norm(x_BLD) * (1 + scale2) + shift2)
        return moved


class DiT(nn.Module):
    """Takes and returns what `discli.model.DiS` does."""

    def __init__(self, width: int, depth: int, patch_size: int, input_size: int, channels: int, classes: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (input_size // patch_size) ** 2, width))
        self.time_embed = TimeEmbed(width)
        self.class_embed = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(DiTBlock(width) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch_size**2 * 2 * channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        condition = self.time_embed(t) + self.class_embed(y)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulation(F.silu(condition)).unsqueeze(1).chunk(2, dim=-1)
        return unpatchify(self.head(_norm(tokens) * (1 + scale) + shift), self.patch_embed.kernel_size[0])


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def dit_of(parameters: int, depth: int, patch_size: int, input_size: int, channels: int, classes: int) -> DiT:
    """The DiT of ``depth`` blocks whose number of parameters comes closest; widths go up by 32."""

    def build(width: int) -> DiT:
        return DiT(width, depth, patch_size, input_size, channels, classes)

    with torch.device("meta"):
        width = min(range(64, 2049, 32), key=lambda width: abs(count(build(width)) - parameters))
    return build(width)


def block_of(parameters: int) -> DiTBlock:
    """The block whose number of parameters comes closest; widths go up by 8."""
    with torch.device("meta"):
        width = min(range(32, 2049, 8), key=lambda width: abs(count(DiTBlock(width)) - parameters))
    return DiTBlock(width)


def block_flops(width: int, tokens: int) -> int:
    """Of one sample's forward pass through a block, a multiply-add as two; the modulation runs once a sample."""
    return 2 * 12 * tokens * width**2 + 4 * tokens**2 * width + 2 * 6 * width**2


def block_of_flops(flops: int, tokens: int) -> DiTBlock:
    """The block whose forward pass over so many tokens costs the closest; widths go up by 8."""
    return DiTBlock(min(range(32, 4097, 8), key=lambda width: abs(block_flops(width, tokens) - flops)))
