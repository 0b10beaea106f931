"""LayerSync (arXiv:2510.12581): tokens of an early block point where those of a later one do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from discli.recipe import DataContract, Recipe
from discli.recipe.kinds import AuxiliarySpec, at_share
from discli.recipe.spec import Positive, PositiveInt
from discli.training.auxiliary import AuxiliaryLoss

if TYPE_CHECKING:
    from discli.recipe.model import ModelSpec


class LayerSyncSpec(AuxiliarySpec):
    """Tokens of an early block point where the same network's later ones do (LayerSync, arXiv:2510.12581)."""

    name: Annotated[Literal["layersync"], Field(description="the table's own")] = "layersync"
    weight: Annotated[Positive, Field(description="times the mean cosine distance; the authors' 0.2")] = 0.2
    early: Annotated[PositiveInt | None, Field(description="block that learns, from 1; default: 2/7 of depth")] = None
    late: Annotated[PositiveInt | None, Field(description="block that it learns from; default: 4/7 of depth")] = None

    def pair(self, depth: int) -> tuple[int, int]:
        """Both blocks, from 1. The authors' 8 and 16 of 28 by default."""
        early = self.early or at_share(2 / 7, depth)
        return early, self.late or max(at_share(4 / 7, depth), early + 1)

    def looks_at(self, model: "ModelSpec") -> tuple[int, ...]:
        return self.pair(model.depth)

    def check(self, model: "ModelSpec") -> None:
        AuxiliarySpec.check(self, model)
        early, late = self.pair(model.depth)
        if early >= late:
            raise ValueError(f"train.layersync.early {early} must be a block before train.layersync.late {late}")


class LayerSync(AuxiliaryLoss):
    """1 - cosine of both blocks' tokens, mean over patches; nothing flows into the later block."""

    spec = LayerSyncSpec

    def __init__(self, spec: LayerSyncSpec, recipe: Recipe, contract: DataContract) -> None:
        super().__init__(spec, recipe, contract)
        self.early, self.late = (block - 1 for block in spec.pair(recipe.model.depth))

    def forward(self, outputs: Mapping[int, Tensor], target: Tensor | None) -> Tensor:
        return 1 - F.cosine_similarity(outputs[self.early], outputs[self.late].detach(), dim=-1).mean(1)
