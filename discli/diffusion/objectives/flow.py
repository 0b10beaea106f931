"""The velocity of a straight line from data to noise is predicted: flow matching, as SiT does it."""

from typing import ClassVar, Literal

from torch import Tensor

from discli.diffusion.objectives import Objective
from discli.recipe.kinds import ObjectiveSpec, Process


class FlowSpec(ObjectiveSpec):
    """Predict the velocity eps - x0 of the linear interpolant (SiT, arXiv:2401.08740)."""

    name: Literal["flow"] = "flow"
    process: ClassVar[Process] = "flow"


class Flow(Objective):
    """The velocity eps - x0 of the straight line, a + s = 1 (arXiv:2401.08740, section 2)."""

    spec = FlowSpec

    def target(self, x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return noise - x0

    def read(self, x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return x_t - s * prediction, x_t + a * prediction

    def weight_of_x0_error(self, snr: Tensor) -> Tensor:
        # s^2 = 1 / (1 + sqrt(snr))^2, since a + s = 1.
        return 1 / (1 + snr.sqrt()) ** 2
