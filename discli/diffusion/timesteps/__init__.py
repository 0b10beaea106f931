"""How often training draws each timestep, one file each."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from discli.recipe.spec import ChoiceSpec


class TimestepDistribution(ABC):
    """A distribution over [0, 1), which the schedule turns into timesteps.

    ``of_the_straight_path``: what is drawn are times t of flow, and of any schedule the timesteps of as much noise,
    s / a = t / (1 - t).
    """

    spec: ClassVar[type[ChoiceSpec]]
    of_the_straight_path: ClassVar[bool] = False

    @abstractmethod
    def fractions(self, uniforms: Tensor) -> Tensor:
        """(B,) draws, uniform in [0, 1), to (B,) draws of this distribution in the same dtype; 0 is clean."""
