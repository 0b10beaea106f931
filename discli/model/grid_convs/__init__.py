"""How neighbours on the grid of patches meet, whatever the scan's order is. One file each."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from discli.model.order import Placed
from discli.recipe.spec import ChoiceSpec


class GridConv(Placed):
    """Maps (B, L, C) to (B, L, C), patches in raster order; the first ``extra_tokens`` come out as they went in.

    Its Spec's ``where`` says what it is given: the tokens of a mixer, or the channels of its scans. An
    ``init_weights``, where there is one, sets the initial values (`discli.model.init`).
    """

    spec: ClassVar[type[ChoiceSpec]]

    def __init__(self, channels: int, extra_tokens: int) -> None:
        super().__init__()
        self.extra_tokens = extra_tokens
        self._kept: Tensor | None = None

    def leave_only(self, tokens: Tensor | None) -> None:
        self._kept = None if tokens is None else tokens[:, self.extra_tokens :] - self.extra_tokens

    def forward(self, u_BLC: Tensor) -> Tensor:
        """(B, L, C) to (B, L, C). Where patches are left out, their neighbours see zeros there, as at the edges."""
        extra, patches = u_BLC[:, : self.extra_tokens], u_BLC[:, self.extra_tokens :]
        kept = None if self._kept is None else self._kept.unsqueeze(-1).expand_as(patches)
        if kept is not None:
            patches = patches.new_zeros(len(patches), self.grid.area, patches.shape[2]).scatter(1, kept, patches)
        patches = self.convolve(patches.unflatten(1, self.grid)).flatten(1, 2)
        if kept is not None:
            patches = patches.gather(1, kept)
        return torch.cat([extra.to(patches.dtype), patches], dim=1) if self.extra_tokens else patches

    @abstractmethod
    def convolve(self, grid_BHWC: Tensor) -> Tensor:
        """(B, rows, columns, C) to the same shape."""

    @abstractmethod
    def flops(self) -> int:
        """Of one image on the grid as it is laid out, a multiply-add as two."""
