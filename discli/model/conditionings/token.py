"""The paper's conditioning: time and class are tokens."""

from typing import Literal

import torch
from torch import Tensor

from discli.model.conditionings import Conditioning, Conditions
from discli.recipe.spec import ChoiceSpec


class TokenConditioningSpec(ChoiceSpec):
    """Time and class as tokens in front of the patches: the paper's choice."""

    name: Literal["token"] = "token"


class TokenConditioning(Conditioning):
    """[class, time, patches]; class-conditional models also modulate the head: arXiv:2402.05608, section 3.1."""

    spec = TokenConditioningSpec

    def __init__(self, embed_dim: int, has_classes: bool) -> None:
        super().__init__(embed_dim, has_classes)
        self.extra_tokens = 2 if has_classes else 1
        self.modulates_head = has_classes

    def forward(self, time_BD: Tensor, class_BD: Tensor | None) -> Conditions:
        if class_BD is None:
            return Conditions(time_BD.unsqueeze(1), blocks=None, head=None)
        return Conditions(torch.stack([class_BD, time_BD], dim=1), blocks=None, head=time_BD + class_BD)
