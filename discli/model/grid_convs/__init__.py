"""How neighbours on the grid of patches meet, whatever the scan's order is. One file each."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from discli.recipe.spec import ChoiceSpec


class GridConv(nn.Module, ABC):
    """Maps (B, L, C) to (B, L, C), patches in raster order; the first ``extra_tokens`` come out as they went in.

    Its Spec's ``where`` says what it is given: the tokens of a mixer, or the channels of its scans. An
    ``init_weights``, where there is one, sets the initial values (`discli.model.init`).
    """

    spec: ClassVar[type[ChoiceSpec]]

    def __init__(self, channels: int, side: int, extra_tokens: int) -> None:
        super().__init__()
        self.side, self.extra_tokens = side, extra_tokens

    @abstractmethod
    def forward(self, u_BLC: Tensor) -> Tensor:
        """(B, L, C) to (B, L, C)."""

    @abstractmethod
    def flops(self) -> int:
        """Of one image, a multiply-add as two."""
