"""Patches that see beyond their borders."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from discli.model.flops import matmul_flops
from discli.model.patch_embeds import PatchEmbed
from discli.recipe.size import Size
from discli.recipe.spec import ChoiceSpec, Count


class OverlappingPatchEmbedSpec(ChoiceSpec):
    """A 3 x 3 convolution, then patches twice as wide as they are apart (arXiv:2106.14881, arXiv:2106.13797)."""

    name: Literal["overlapping"] = "overlapping"
    stem: Annotated[Count, Field(le=2**12, description="channels of the 3 x 3 convolution; 0: without it")] = 32


class OverlappingPatchEmbed(PatchEmbed):
    """conv2p(SiLU(conv3(x))): a 3 x 3 stem as "Early convolutions" has it, windows of PVT v2's width.

    Windows of 2p x 2p lie p apart, each with its patch in the middle; of an odd p they are 2p - 1 wide, so that
    a middle there is. Zeros lie around the image.
    """

    spec = OverlappingPatchEmbedSpec

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int, stem: int) -> None:
        nn.Module.__init__(self)
        self.stem = nn.Conv2d(in_channels, stem, 3, padding=1) if stem else None
        width = 2 * patch_size - patch_size % 2
        padding = (width - patch_size) // 2
        self.windows = nn.Conv2d(stem or in_channels, embed_dim, width, stride=patch_size, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)  # a quarter faster on a CPU, and tokens lie so anyway
        if self.stem is not None:
            x = nn.functional.silu(self.stem(x))
        grid: Tensor = self.windows(x)
        return grid

    def flops(self, input_size: Size) -> int:
        of_stem = 0 if self.stem is None else _flops(self.stem, input_size)
        return of_stem + _flops(self.windows, input_size.cut_into(self.windows.stride[0]))


def _flops(conv: nn.Conv2d, size: Size) -> int:
    return matmul_flops(size.area, conv.kernel_size[0] ** 2 * conv.in_channels, conv.out_channels)
