"""How often training draws each timestep, one file each."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from discli.recipe.spec import ChoiceSpec


class TimestepDistribution(ABC):
    """A distribution over [0, 1), which the schedule turns into timesteps."""

    spec: ClassVar[type[ChoiceSpec]]

    @abstractmethod
    def fractions(self, uniforms: Tensor) -> Tensor:
        """(B,) draws, uniform in [0, 1), to (B,) draws of this distribution in the same dtype; 0 is clean."""
