"""A depth-wise convolution over the grid: each channel by itself, over a square of patches."""

from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.flops import matmul_flops
from discli.model.grid_convs import GridConv
from discli.recipe.kinds import GridConvSpec
from discli.recipe.spec import PositiveInt


class NoGridConvSpec(GridConvSpec):
    """None: the paper's choice."""

    name: Literal["none"] = "none"


class DepthwiseGridConvSpec(GridConvSpec):
    """Each channel over a square of patches (VMamba, arXiv:2401.10166; DiG, arXiv:2405.18428)."""

    name: Literal["depthwise"] = "depthwise"
    place: Annotated[
        Literal["before", "instead"],
        Field(description="before each mixer, or instead of the convolution along its scan: d_conv then means nothing"),
    ] = "before"
    size: Annotated[PositiveInt, Field(le=31, description="patches on a side of the square; odd")] = 3

    @property
    def where(self) -> Literal["before", "instead"] | None:
        return self.place

    @field_validator("size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("must be odd: as many neighbours on each side")
        return size


class DepthwiseGridConv(GridConv):
    """y[c, i, j] = bias[c] + sum over a, b of weight[c, a, b] x[c, i + a - s // 2, j + b - s // 2], zeros outside.

    Before a mixer it is the identity at first; instead of the scan's convolution it starts as that does,
    at PyTorch's default.
    """

    spec = DepthwiseGridConvSpec

    def __init__(self, channels: int, extra_tokens: int, place: str, size: int) -> None:
        super().__init__(channels, extra_tokens)
        self.starts_as_identity = place == "before"
        self.weight = nn.Parameter(torch.empty(channels, 1, size, size))
        self.bias = nn.Parameter(torch.empty(channels))

    def init_weights(self) -> None:
        size = self.weight.shape[-1]
        if self.starts_as_identity:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)
            self.weight[:, 0, size // 2, size // 2] = 1
        else:
            nn.init.uniform_(self.weight, -1 / size, 1 / size)
            nn.init.uniform_(self.bias, -1 / size, 1 / size)

    def convolve(self, grid_BHWC: Tensor) -> Tensor:
        # As an image whose channels lie side by side, which is how tokens lie: nothing is transposed.
        image = grid_BHWC.permute(0, 3, 1, 2)
        channels, _, size, _ = self.weight.shape
        return F.conv2d(image, self.weight, self.bias, padding=size // 2, groups=channels).permute(0, 2, 3, 1)

    def flops(self) -> int:
        channels, _, size, _ = self.weight.shape
        return matmul_flops(self.grid.area, size**2, channels)
