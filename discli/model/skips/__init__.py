"""The long skip: how a block of the second half meets its mirror in the first. One file each."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from discli.recipe.spec import ChoiceSpec


class Skip(nn.Module, ABC):
    """Called ``skip(hidden, skipped)``: both (B, L, D), to (B, L, D).

    ``hidden`` is the output of the block before, ``skipped`` that of the mirrored block. An ``init_weights``,
    where there is one, sets the initial values (`discli.model.init`).
    """

    spec: ClassVar[type[ChoiceSpec]]

    def __init__(self, embed_dim: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, hidden: Tensor, skipped: Tensor) -> Tensor:
        """(B, L, D) twice to (B, L, D)."""

    @abstractmethod
    def flops(self, L: int) -> int:
        """Of L tokens' matrix products; what does an operation or so to each element is left out."""
