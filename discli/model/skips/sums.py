"""Long skips that add all, some or none of the mirrored block's output."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from discli.model.skips import Skip
from discli.recipe.spec import ChoiceSpec


class AddSkipSpec(ChoiceSpec):
    """Hidden plus the mirrored in-block's output."""

    name: Literal["add"] = "add"


class NoSkipSpec(ChoiceSpec):
    """No long skip."""

    name: Literal["none"] = "none"


class GatedSkipSpec(ChoiceSpec):
    """Hidden plus the mirrored in-block's output times a learned share of each channel."""

    name: Literal["gated"] = "gated"


class AddSkip(Skip):
    """Plain sum; no parameters."""

    spec: ClassVar[type[ChoiceSpec]] = AddSkipSpec

    def forward(self, hidden: Tensor, skipped: Tensor) -> Tensor:
        return hidden + skipped

    def flops(self, L: int) -> int:
        return 0


class NoSkip(AddSkip):
    """The in-block's output is not used again."""

    spec = NoSkipSpec

    def forward(self, hidden: Tensor, skipped: Tensor) -> Tensor:
        return hidden


class GatedSkip(AddSkip):
    """hidden + sigmoid(gate) * skipped, one gate a channel; between `NoSkip` and `AddSkip`, at first half-way."""

    spec = GatedSkipSpec

    def __init__(self, embed_dim: int) -> None:
        super().__init__(embed_dim)
        self.gate = nn.Parameter(torch.empty(embed_dim))

    def init_weights(self) -> None:
        nn.init.zeros_(self.gate)

    def forward(self, hidden: Tensor, skipped: Tensor) -> Tensor:
        return hidden + torch.sigmoid(self.gate) * skipped
