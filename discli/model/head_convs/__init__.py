"""What may follow the head, over the pixels of its image. One file each."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from discli.recipe.size import Size
from discli.recipe.spec import ChoiceSpec


class HeadConv(nn.Module, ABC):
    """Maps the head's image (B, C_out, H, W) to one of that shape; at first to itself."""

    spec: ClassVar[type[ChoiceSpec]]

    def __init__(self, channels: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """(B, C_out, H, W) to (B, C_out, H, W)."""

    @abstractmethod
    def flops(self, size: Size) -> int:
        """Of one image, a multiply-add as two."""
