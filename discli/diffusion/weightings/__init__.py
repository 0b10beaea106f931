"""How much the squared error counts at each timestep, one file each."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from discli.diffusion.objectives import Objective
from discli.recipe.spec import ChoiceSpec


class Weighting(ABC):
    """A factor for the squared error of the objective's target."""

    spec: ClassVar[type[ChoiceSpec]]

    @abstractmethod
    def weight(self, a: Tensor, s: Tensor, objective: Objective) -> Tensor:
        """(B,) factors, given a and s (B, 1, 1, 1) of x_t = a x0 + s eps."""
