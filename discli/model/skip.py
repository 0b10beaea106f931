"""The long skip: how an out-block takes in the output of its mirrored in-block.

To add one: a class here that maps (hidden, skip), both (B, L, D), to (B, L, D), its name in
``SKIPS``, and a Spec of the same name in `discli.recipe.model`.
"""

import torch
from torch import Tensor, nn

from discli.recipe import model as spec


class ConcatSkip(nn.Module):
    """Linear over both, side by side: arXiv:2402.05608, section 3.2."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * embed_dim, embed_dim)

    def forward(self, hidden: Tensor, skip: Tensor) -> Tensor:
        merged: Tensor = self.linear(torch.cat([hidden, skip], dim=-1))
        return merged


class AddSkip(nn.Module):
    """Plain sum; no parameters."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, skip: Tensor) -> Tensor:
        return hidden + skip


class NoSkip(nn.Module):
    """The in-block's output is not used again."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, skip: Tensor) -> Tensor:
        return hidden


class GatedSkip(nn.Module):
    """hidden + sigmoid(gate) * skip, one gate for each channel; between `NoSkip` and `AddSkip`, at first half-way."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(embed_dim))

    def forward(self, hidden: Tensor, skip: Tensor) -> Tensor:
        return hidden + torch.sigmoid(self.gate) * skip


SKIPS: dict[str, type[nn.Module]] = {
    "concat": ConcatSkip,
    "add": AddSkip,
    "none": NoSkip,
    "gated": GatedSkip,
}


def build_skip(choice: spec.Skip, embed_dim: int) -> nn.Module:
    return SKIPS[choice.name](embed_dim, **choice.model_dump(exclude={"name"}))
