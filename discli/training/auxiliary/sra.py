"""Self-representation alignment (SRA, arXiv:2505.02831): the averaged weights, on less noise, are the teacher."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from discli.recipe import DataContract, Recipe
from discli.recipe.kinds import AuxiliarySpec, AveragedOutput, at_share
from discli.recipe.spec import Fraction, Positive, PositiveInt
from discli.training.auxiliary import AuxiliaryLoss

if TYPE_CHECKING:
    from discli.recipe.model import ModelSpec


class SRASpec(AuxiliarySpec):
    """An early block learns from a later one of the averaged weights, on less noise (SRA, arXiv:2505.02831).

    The averaged weights see the same image, class and noise at a timestep that is up to ``earlier`` less noisy.
    That is one more forward pass through their first ``teacher`` blocks in every step.
    """

    name: Annotated[Literal["sra"], Field(description="the table's own")] = "sra"
    weight: Annotated[Positive, Field(description="times the smooth L1 distance; the authors begin at 0.2")] = 0.2
    student: Annotated[PositiveInt | None, Field(description="block that learns, from 1; default: 2/7 of depth")] = None
    teacher: Annotated[
        PositiveInt | None, Field(description="block of the averaged weights; default: 5/7 of depth")
    ] = None
    earlier: Annotated[
        Fraction, Field(description="the most that the teacher's timestep is less noisy; of all timesteps")
    ] = 0.2
    beta: Annotated[Positive, Field(description="below it smooth L1 is a square")] = 0.05

    def looks_at(self, model: "ModelSpec") -> tuple[int, ...]:
        return (self.student or at_share(2 / 7, model.depth),)

    def learns_from(self, model: "ModelSpec") -> AveragedOutput:
        return AveragedOutput(self.teacher or at_share(5 / 7, model.depth), self.earlier)


class SRA(AuxiliaryLoss):
    """Smooth L1 between projected tokens and the teacher's, mean over patches and channels.

    Only the student's tokens go through the projector: two layers, as in the authors' code.
    """

    spec = SRASpec

    def __init__(self, spec: SRASpec, recipe: Recipe, contract: DataContract) -> None:
        super().__init__(spec, recipe, contract)
        [block] = spec.looks_at(recipe.model)
        self.block, self.beta, D = block - 1, spec.beta, recipe.model.embed_dim
        self.projector = nn.Sequential(nn.Linear(D, 2 * D), nn.SiLU(), nn.Linear(2 * D, D))
        for layer in self.projector[::2]:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, outputs: Mapping[int, Tensor], target: Tensor | None) -> Tensor:
        assert target is not None
        projected = self.projector(outputs[self.block]).float()
        return F.smooth_l1_loss(projected, target, reduction="none", beta=self.beta).flatten(1).mean(1)
