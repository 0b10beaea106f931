"""How time and class reach the network.

To add one: a class here with ``extra_tokens``, ``block_modulation`` and ``forward``, its name in
``CONDITIONINGS``, and a Spec of the same name in `discli.recipe.model`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from discli.recipe import model as spec


class Conditions(NamedTuple):
    """Where the condition enters; None where it does not."""

    tokens: Tensor  # (B, extra_tokens, D), put in front of the patches
    blocks: Tensor | None  # (B, D), modulates every block's norm
    head: Tensor | None  # (B, D), modulates the head's norm


class Modulation(nn.Module):
    """x * (1 + scale) + shift, both linear in SiLU(condition): adaLN (arXiv:2212.09748, section 3.2)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embed_dim, 2 * embed_dim)

    def forward(self, x_BLD: Tensor, condition_BD: Tensor) -> Tensor:
        shift, scale = self.linear(nn.functional.silu(condition_BD)).unsqueeze(1).chunk(2, dim=-1)
        modulated: Tensor = x_BLD * (1 + scale) + shift
        return modulated


class TokenConditioning(nn.Module):
    """[class, time, patches]; class-conditional models also modulate the head: arXiv:2402.05608, section 3.1."""

    def __init__(self, embed_dim: int, has_classes: bool) -> None:
        super().__init__()
        self.extra_tokens = 2 if has_classes else 1
        self.modulates_head = has_classes

    def block_modulation(self) -> nn.Module | None:
        return None

    def forward(self, time_BD: Tensor, class_BD: Tensor | None) -> Conditions:
        if class_BD is None:
            return Conditions(time_BD.unsqueeze(1), blocks=None, head=None)
        return Conditions(torch.stack([class_BD, time_BD], dim=1), blocks=None, head=time_BD + class_BD)


class AdaLNConditioning(nn.Module):
    """No extra tokens; the sum of time and class modulates every block and the head."""

    def __init__(self, embed_dim: int, has_classes: bool) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.extra_tokens = 0
        self.modulates_head = True

    def block_modulation(self) -> nn.Module | None:
        return Modulation(self.embed_dim)

    def forward(self, time_BD: Tensor, class_BD: Tensor | None) -> Conditions:
        condition = time_BD if class_BD is None else time_BD + class_BD
        return Conditions(condition.unsqueeze(1)[:, :0], blocks=condition, head=condition)


CONDITIONINGS: dict[str, type[TokenConditioning] | type[AdaLNConditioning]] = {
    "token": TokenConditioning,
    "adaln": AdaLNConditioning,
}


def build_conditioning(
    choice: spec.Conditioning, embed_dim: int, has_classes: bool
) -> TokenConditioning | AdaLNConditioning:
    return CONDITIONINGS[choice.name](embed_dim, has_classes, **choice.model_dump(exclude={"name"}))
