"""Two convolutions after the head, which see across the borders of patches."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from discli.model.flops import matmul_flops
from discli.model.head_convs import HeadConv
from discli.recipe.size import Size
from discli.recipe.spec import ChoiceSpec, PositiveInt


class NoHeadConvSpec(ChoiceSpec):
    """None: the paper's choice."""

    name: Literal["none"] = "none"


class ResidualHeadConvSpec(ChoiceSpec):
    """Two 3 x 3 convolutions over the image add to it, from zero on, so that patches have no borders."""

    name: Literal["residual"] = "residual"
    width: Annotated[PositiveInt, Field(le=2**12, description="channels between the two")] = 32


class ResidualHeadConv(HeadConv):
    """image + conv3(SiLU(conv3(image))), the last one 0 at first, so that a network starts as it does without."""

    spec = ResidualHeadConvSpec

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels)
        self.expand = nn.Conv2d(channels, width, 3, padding=1)
        self.contract = nn.Conv2d(width, channels, 3, padding=1)

    def init_weights(self) -> None:
        nn.init.zeros_(self.contract.weight)
        assert self.contract.bias is not None
        nn.init.zeros_(self.contract.bias)

    def forward(self, image: Tensor) -> Tensor:
        inner = nn.functional.silu(self.expand(image.contiguous(memory_format=torch.channels_last)))
        added: Tensor = self.contract(inner)
        return image + added

    def flops(self, size: Size) -> int:
        return 2 * matmul_flops(size.area, 9 * self.expand.in_channels, self.expand.out_channels)
