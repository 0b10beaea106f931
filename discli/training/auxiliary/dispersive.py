"""Dispersive loss (arXiv:2506.09027): images that are trained together shall look different inside the network."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from discli.recipe import DataContract, Recipe
from discli.recipe.kinds import AuxiliarySpec, at_share
from discli.recipe.spec import Positive, PositiveInt
from discli.training.auxiliary import AuxiliaryLoss

if TYPE_CHECKING:
    from discli.recipe.model import ModelSpec


class DispersiveSpec(AuxiliarySpec):
    """Images of a batch are pushed apart inside the network: InfoNCE without positives (arXiv:2506.09027).

    The loss of an image depends on those that it is compared with. These are not what happens to be in one
    process's micro-batch but ``together`` neighbours in the global batch, whatever is done with it: 16 by
    default, as on each of the authors' devices. Processes and micro-batches must take whole groups.
    """

    name: Annotated[Literal["dispersive"], Field(description="the table's own")] = "dispersive"
    weight: Annotated[Positive, Field(description="times the loss; the authors' 0.5")] = 0.5
    block: Annotated[PositiveInt | None, Field(description="whose output, from 1; default: a quarter of depth")] = None
    temperature: Annotated[Positive, Field(description="divides mean squared distances; the authors' 0.5")] = 0.5
    together: Annotated[PositiveInt, Field(ge=2, description="images that are pushed apart from each other")] = 16

    def looks_at(self, model: "ModelSpec") -> tuple[int, ...]:
        return (self.block or at_share(1 / 4, model.depth),)

    def group(self) -> int:
        return self.together


class Dispersive(AuxiliaryLoss):
    """log mean_ij exp(-|z_i - z_j|^2 / (n t)) over all pairs of a group, i = j among them, for each of its images.

    z is all that a block puts out for an image, n numbers; the paper's variant "InfoNCE, l2".
    The division by n is that of the authors' code.
    """

    spec = DispersiveSpec

    def __init__(self, spec: DispersiveSpec, recipe: Recipe, contract: DataContract) -> None:
        super().__init__(spec, recipe, contract)
        [block] = spec.looks_at(recipe.model)
        self.block, self.temperature, self.together = block - 1, spec.temperature, spec.together

    def forward(self, outputs: Mapping[int, Tensor], target: Tensor | None) -> Tensor:
        z = outputs[self.block].flatten(1)
        with torch.autocast(z.device.type, enabled=False):
            z = z.unflatten(0, (-1, self.together))  # (groups, together, n)
            z = z - z.mean(1, keepdim=True)  # distances are the same, and their squares lose fewer digits
            squares = z.square().sum(-1)
            distances = squares[:, :, None] + squares[:, None] - 2 * z @ z.mT
            itself = torch.eye(self.together, dtype=torch.bool, device=z.device)
            distances = distances.masked_fill(itself, 0.0).clamp(min=0) / z.shape[-1]
            logits = (-distances / self.temperature).flatten(1)
            loss = torch.logsumexp(logits, dim=1) - math.log(logits.shape[1])
        return loss.repeat_interleave(self.together)
