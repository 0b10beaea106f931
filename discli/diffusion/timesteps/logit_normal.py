"""Timesteps around a middle noise level, where there is most to learn."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from discli.diffusion.timesteps import TimestepDistribution
from discli.recipe.spec import ChoiceSpec, Positive, Real


class LogitNormalTimestepsSpec(ChoiceSpec):
    """t = sigmoid(mean + std * normal) (arXiv:2403.03206, section 3.1)."""

    name: Literal["logit-normal"] = "logit-normal"
    mean: Annotated[Real, Field(description="of the normal; above 0: more noise")] = 0.0
    std: Annotated[Positive, Field(description="of the normal")] = 1.0


class LogitNormalTimesteps(TimestepDistribution):
    """The logistic function of a normal variable (arXiv:2403.03206, section 3.1)."""

    spec = LogitNormalTimestepsSpec

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def fractions(self, uniforms: Tensor) -> Tensor:
        # Kept off 0 and 1, where the inverse of the normal distribution is infinite.
        normals = torch.special.ndtri((uniforms.double() + 2.0**-25).clamp(max=1 - 2.0**-25))
        return torch.sigmoid(self.mean + self.std * normals).to(uniforms.dtype)
