"""A mixture of noise and sample is predicted, whose scale is the same at all timesteps."""

from typing import Literal

from torch import Tensor

from discli.diffusion.objectives import Objective
from discli.recipe.kinds import ObjectiveSpec


class VSpec(ObjectiveSpec):
    """Predict v = sqrt(abar) eps - sqrt(1 - abar) x0 (arXiv:2202.00512)."""

    name: Literal["v"] = "v"


class V(Objective):
    """a eps - s x0, with a^2 + s^2 = 1 (arXiv:2202.00512, appendix D)."""

    spec = VSpec

    def target(self, x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * noise - s * x0

    def read(self, x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return a * x_t - s * prediction, s * x_t + a * prediction

    def weight_of_x0_error(self, snr: Tensor) -> Tensor:
        return 1 / (snr + 1)
