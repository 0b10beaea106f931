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
        """(B,): mean square of x0's error = this weight * that of `error`; snr (B,) is (a / s)^2."""

    def error(self, prediction: Tensor, target: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """(B, C, H, W), whose mean square is the loss: of the target, unless an objective is trained on another."""
        return prediction - target

    def velocity(self, x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """dx/dt of the straight path that the prediction amounts to, (B, C, H, W)."""
        x0, noise = self.read(x_t, prediction, a, s)
        return noise - x0
