"""The clean sample is predicted."""

from typing import Literal

from torch import Tensor

from discli.diffusion.objectives import Objective
from discli.recipe.kinds import ObjectiveSpec


class X0Spec(ObjectiveSpec):
    """Predict the clean sample."""

    name: Literal["x0"] = "x0"


class X0(Objective):
    """The clean sample (arXiv:2202.00512, section 4)."""

    spec = X0Spec

    def target(self, x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return x0

    def read(self, x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return prediction, (x_t - a * prediction) / s

    def weight_of_x0_error(self, snr: Tensor) -> Tensor:
        return snr.new_ones(()).expand_as(snr)
