"""How time and class reach the network.

To add one: a class here with ``extra_tokens``, ``block_modulation`` and ``forward``, its name in
``CONDITIONINGS``, and a Spec of the same name in `discli.recipe.model`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from discli.recipe import model as spec

Layer = Callable[[Tensor], Tensor]


class Conditions(NamedTuple):
    """Where the condition enters; None where it does not."""

    tokens: Tensor  # (B, extra_tokens, D), put in front of the patches
    blocks: Tensor | None  # (B, D), modulates every block's norm
    head: Tensor | None  # (B, D), modulates the head's norm


class Modulation(nn.Module):
    """layer(x * (1 + scale) + shift), both linear in SiLU(condition): adaLN (arXiv:2212.09748, section 3.2)."""

    width = 2  # vectors of D channels that the condition is turned into

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embed_dim, self.width * embed_dim)

    def forward(self, x_BLD: Tensor, condition_BD: Tensor, layer: Layer) -> Tensor:
        shift, scale = self._vectors(condition_BD)
        return layer(x_BLD * (1 + scale) + shift)

    def _vectors(self, condition_BD: Tensor) -> tuple[Tensor, ...]:
        vectors: Tensor = self.linear(nn.functional.silu(condition_BD))
        return vectors.unsqueeze(1).chunk(self.width, dim=-1)


class GatedModulation(Modulation):
    """gate * layer(x * (1 + scale) + shift), all three 0 at first: adaLN-Zero (arXiv:2212.09748, section 3.2)."""

    width = 3

    def forward(self, x_BLD: Tensor, condition_BD: Tensor, layer: Layer) -> Tensor:
        shift, scale, gate = self._vectors(condition_BD)
        return gate * layer(x_BLD * (1 + scale) + shift)


class Conditioning(nn.Module):
    """What all kinds have in common: how many tokens they add, and what they surround layers with."""

    extra_tokens: int
    modulates_head: bool

    def block_modulation(self) -> Modulation | None:
        """A new one for a layer of a block; None where blocks are not modulated."""
        return None


class TokenConditioning(Conditioning):
    """[class, time, patches]; class-conditional models also modulate the head: arXiv:2402.05608, section 3.1."""

    def __init__(self, embed_dim: int, has_classes: bool) -> None:
        super().__init__()
        self.extra_tokens = 2 if has_classes else 1
        self.modulates_head = has_classes

    def forward(self, time_BD: Tensor, class_BD: Tensor | None) -> Conditions:
        if class_BD is None:
            return Conditions(time_BD.unsqueeze(1), blocks=None, head=None)
        return Conditions(torch.stack([class_BD, time_BD], dim=1), blocks=None, head=time_BD + class_BD)


class AdaLNConditioning(Conditioning):
    """No extra tokens; the sum of time and class modulates every block and the head."""

    def __init__(self, embed_dim: int, has_classes: bool) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.extra_tokens = 0
        self.modulates_head = True

    def block_modulation(self) -> Modulation | None:
        return Modulation(self.embed_dim)

    def forward(self, time_BD: Tensor, class_BD: Tensor | None) -> Conditions:
        condition = time_BD if class_BD is None else time_BD + class_BD
        return Conditions(condition.unsqueeze(1)[:, :0], blocks=condition, head=condition)


class AdaLNZeroConditioning(AdaLNConditioning):
    """As adaLN, and each block is gated, so that at first it adds nothing: DiT's choice (arXiv:2212.09748).

    The head is modulated as under adaLN and starts as it does there.
    """

    def block_modulation(self) -> Modulation | None:
        return GatedModulation(self.embed_dim)


class FinalOnlyConditioning(AdaLNConditioning):
    """The sum of time and class modulates the head alone: the blocks don't know what they denoise."""

    def block_modulation(self) -> Modulation | None:
        return None

    def forward(self, time_BD: Tensor, class_BD: Tensor | None) -> Conditions:
        return super().forward(time_BD, class_BD)._replace(blocks=None)


CONDITIONINGS: dict[str, type[Conditioning]] = {
    "token": TokenConditioning,
    "adaln": AdaLNConditioning,
    "adaln-zero": AdaLNZeroConditioning,
    "final-only": FinalOnlyConditioning,
}


def build_conditioning(choice: spec.Conditioning, embed_dim: int, has_classes: bool) -> Conditioning:
    return CONDITIONINGS[choice.name](embed_dim, has_classes, **choice.model_dump(exclude={"name"}))
