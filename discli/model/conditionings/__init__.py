"""How time and class reach the network. One file each."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from discli.model.modulation import Modulation
from discli.recipe.spec import ChoiceSpec


class Conditions(NamedTuple):
    """Where the condition enters; None where it does not."""

    tokens: Tensor  # (B, extra_tokens, D), put in front of the patches
    blocks: Tensor | None  # (B, D), modulates every block's norm
    head: Tensor | None  # (B, D), modulates the head's norm


class Conditioning(nn.Module, ABC):
    """Called ``conditioning(time, class)``: both (B, D), to `Conditions`; class is None without classes.

    It says beforehand what it will return: how many tokens in front of the patches, and whether it modulates
    the blocks and the head.
    """

    spec: ClassVar[type[ChoiceSpec]]
    extra_tokens: int = 0
    modulates_head: bool = True

    def __init__(self, embed_dim: int, has_classes: bool) -> None:
        super().__init__()
        self.embed_dim = embed_dim

    @abstractmethod
    def forward(self, time_BD: Tensor, class_BD: Tensor | None) -> Conditions:
        """(B, D) twice to where they enter."""

    def block_modulation(self) -> Modulation | None:
        """A new one for a layer of a block; None where blocks are not modulated."""
        return None

    def flops(self) -> int:
        """Of its own matrix products, in one image; modulations count themselves."""
        return 0
