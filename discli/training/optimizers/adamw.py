"""AdamW (arXiv:1711.05101)."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from discli.recipe.spec import ChoiceSpec
from discli.recipe.train import TrainSpec
from discli.training.optimizers import Optimizer


class AdamWSpec(ChoiceSpec):
    """AdamW (arXiv:1711.05101): the authors' choice."""

    name: Literal["adamw"] = "adamw"


class AdamW(Optimizer):
    """All parameters in one."""

    spec = AdamWSpec

    def share_out(self, model: nn.Module, train: TrainSpec) -> list[torch.optim.Optimizer]:
        return [adamw(model.named_parameters(), train)]


def adamw(named: Iterable[tuple[str, Tensor]], train: TrainSpec) -> torch.optim.AdamW:
    """Of parameters by name. Vectors, A_log and embeddings of position or class are never decayed."""
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for name, parameter in named:
        exempt = parameter.ndim < 2 or name.endswith(("A_log", "pos_embed", "class_embed.weight"))
        (kept if exempt else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=True)
