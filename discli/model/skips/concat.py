"""The paper's long skip."""

from typing import Literal

import torch
from torch import Tensor, nn

from discli.model.flops import matmul_flops
from discli.model.skips import Skip
from discli.recipe.spec import ChoiceSpec


class ConcatSkipSpec(ChoiceSpec):
    """Linear(2D, D) of hidden beside the mirrored in-block's output: the paper's choice."""

    name: Literal["concat"] = "concat"


class ConcatSkip(Skip):
    """Linear over both, side by side: arXiv:2402.05608, section 3.2."""

    spec = ConcatSkipSpec

    def __init__(self, embed_dim: int) -> None:
        super().__init__(embed_dim)
        self.linear = nn.Linear(2 * embed_dim, embed_dim)

    def forward(self, hidden: Tensor, skipped: Tensor) -> Tensor:
        merged: Tensor = self.linear(torch.cat([hidden, skipped], dim=-1))
        return merged

    def flops(self, L: int) -> int:
        return matmul_flops(L, self.linear.in_features, self.linear.out_features)
