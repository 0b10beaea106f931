"""Representation alignment (REPA, arXiv:2410.06940): noisy tokens, projected, point where a teacher's features do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from discli.recipe import DataContract, Recipe
from discli.recipe.kinds import AuxiliarySpec, Features, at_share
from discli.recipe.size import SizeField
from discli.recipe.spec import Flag, Positive, PositiveInt
from discli.training.auxiliary import AuxiliaryLoss

if TYPE_CHECKING:
    from discli.recipe.model import ModelSpec


class AlignSpec(AuxiliarySpec):
    """Tokens of one block learn to tell what a network sees in the clean image (REPA, arXiv:2410.06940).

    The data file holds the network's features: ``discli encode FILE.h5 --features efficientnet-lite0``, or of a
    teacher trained on the file's own labels: ``discli teacher FILE.h5``.
    """

    name: Annotated[Literal["align"], Field(description="the table's own")] = "align"
    weight: Annotated[Positive, Field(description="times the mean cosine distance, beside the diffusion's loss")] = 0.5
    features: Annotated[str, Field(description="of the data file: efficientnet-lite0, or own (discli teacher)")] = (
        "efficientnet-lite0"
    )
    input_size: Annotated[
        SizeField | None, Field(description="px of the images that the features must be of; default: any")
    ] = None
    block: Annotated[
        PositiveInt | None, Field(description="whose output is aligned, from 1; default: two fifths of depth")
    ] = None
    projector: Annotated[
        Literal["mlp", "conv"], Field(description="three layers as REPA's, or one 3 x 3 convolution as iREPA's")
    ] = "mlp"
    projector_dim: Annotated[
        PositiveInt | None, Field(description="width of the MLP; default: twice model.embed_dim")
    ] = None
    spatial_norm: Annotated[
        Flag, Field(description="iREPA's: features less the image's mean, by its deviation (arXiv:2512.10794)")
    ] = False

    def compares_with(self) -> Features:
        return Features(self.features, self.input_size)

    def looks_at(self, model: "ModelSpec") -> tuple[int, ...]:
        return (self.block or at_share(2 / 5, model.depth),)


class Align(AuxiliaryLoss):
    """1 - cosine of projected tokens and features, mean over patches, for each image."""

    spec = AlignSpec

    def __init__(self, spec: AlignSpec, recipe: Recipe, contract: DataContract) -> None:
        super().__init__(spec, recipe, contract)
        grid = contract.grid(spec.features)
        assert grid is not None, "check_fits refuses"
        model = recipe.model
        [block] = spec.looks_at(model)
        self.block = block - 1
        self.grid = recipe.grid  # until a batch says otherwise
        self.spatial_norm, D = spec.spatial_norm, model.embed_dim
        width = spec.projector_dim or 2 * D
        self.projector: nn.Module
        if spec.projector == "conv":
            self.projector = nn.Conv2d(D, grid.channels, 3, padding=1)
        else:
            self.projector = nn.Sequential(
                nn.Linear(D, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, grid.channels)
            )
        for layer in self.projector.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, outputs: Mapping[int, Tensor], target: Tensor | None) -> Tensor:
        assert target is not None
        tokens = outputs[self.block]
        if isinstance(self.projector, nn.Conv2d):
            square = tokens.transpose(1, 2).unflatten(2, self.grid)
            projected = self.projector(square).flatten(2).transpose(1, 2)
        else:
            projected = self.projector(tokens)
        wanted = self.target(target.to(tokens.device, non_blocking=True))
        return 1 - F.cosine_similarity(projected.float(), wanted, dim=-1).mean(1)

    @torch.no_grad()
    def target(self, features: Tensor) -> Tensor:
        """(b, rows, columns, channels) to (b, patches, channels) float32, resampled where the grids differ."""
        square = features.float().permute(0, 3, 1, 2)
        if tuple(square.shape[2:]) != self.grid:
            square = F.interpolate(square, self.grid, mode="bilinear", antialias=True, align_corners=False)
        target = square.flatten(2).transpose(1, 2)
        if self.spatial_norm:
            target = (target - target.mean(1, keepdim=True)) / (target.std(1, keepdim=True) + 1e-6)
        return target
