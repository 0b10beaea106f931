"""No weighting."""

from typing import Literal

from torch import Tensor

from discli.diffusion.objectives import Objective
from discli.diffusion.weightings import Weighting
from discli.recipe.kinds import WeightingSpec


class UniformWeightingSpec(WeightingSpec):
    """Every timestep's squared error counts the same."""

    name: Literal["uniform"] = "uniform"


class UniformWeighting(Weighting):
    """1 at every timestep."""

    spec = UniformWeightingSpec

    def weight(self, a: Tensor, s: Tensor, objective: Objective) -> Tensor:
        return a.new_ones(len(a))
