"""Uniform timesteps."""

from typing import Literal

from torch import Tensor

from discli.diffusion.timesteps import TimestepDistribution
from discli.recipe.spec import ChoiceSpec


class UniformTimestepsSpec(ChoiceSpec):
    """Every timestep is equally likely."""

    name: Literal["uniform"] = "uniform"


class UniformTimesteps(TimestepDistribution):
    """The draws as they are."""

    spec = UniformTimestepsSpec

    def fractions(self, uniforms: Tensor) -> Tensor:
        return uniforms
