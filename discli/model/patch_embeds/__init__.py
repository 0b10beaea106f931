"""Images to patches: the network's first layer. One file each."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from discli.recipe.size import Size
from discli.recipe.spec import ChoiceSpec


class PatchEmbed(nn.Module, ABC):
    """Maps (B, C, H, W) to (B, D, H / p, W / p): one vector for each patch of p x p pixels or latent cells."""

    spec: ClassVar[type[ChoiceSpec]]

    @abstractmethod
    def __init__(self, in_channels: int, embed_dim: int, patch_size: int) -> None: ...

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H / p, W / p)."""

    @abstractmethod
    def flops(self, input_size: Size) -> int:
        """Of one image, a multiply-add as two."""
