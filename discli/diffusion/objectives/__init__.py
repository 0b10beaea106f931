"""What the network predicts, one file each. See README.md beside this folder for how to add one."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from discli.recipe.spec import ChoiceSpec


class Objective(ABC):
    """How to train on a prediction, and how to read x0 and the noise off it.

    Everything is in terms of x_t = a x0 + s eps. In training a and s are (B, 1, 1, 1), in sampling
    zero-dimensional float64; x0, noise, x_t and prediction are (B, C, H, W).
    """

    spec: ClassVar[type[ChoiceSpec]]

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """What a perfect network would return, (B, C, H, W)."""

    @abstractmethod
    def read(self, x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, noise) that the prediction amounts to, (B, C, H, W) each."""

    @abstractmethod
    def weight_of_x0_error(self, snr: Tensor) -> Tensor:
        """(B,): squared error of x0 = this weight * squared error of the target; snr (B,) is (a / s)^2."""
