"""The paper's patches."""

from typing import Literal

from torch import Tensor, nn

from discli.model.flops import matmul_flops
from discli.model.patch_embeds import PatchEmbed
from discli.recipe.size import Size
from discli.recipe.spec import ChoiceSpec


class PlainPatchEmbedSpec(ChoiceSpec):
    """One linear layer of each patch by itself: the paper's choice."""

    name: Literal["plain"] = "plain"


class PlainPatchEmbed(PatchEmbed, nn.Conv2d):
    """Linear over the p x p x C numbers of a patch: arXiv:2402.05608, section 3.1."""

    spec = PlainPatchEmbedSpec

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int) -> None:
        nn.Conv2d.__init__(self, in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return nn.Conv2d.forward(self, x)

    def flops(self, input_size: Size) -> int:
        pixels = self.kernel_size[0] ** 2
        return matmul_flops(input_size.area // pixels, pixels * self.in_channels, self.out_channels)
