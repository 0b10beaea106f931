"""The clean sample is predicted on the straight path, and trained with the error of the velocity (JiT)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict
from torch import Tensor

from discli.diffusion.objectives import Objective
from discli.recipe.kinds import ObjectiveSpec, Process


class X0FlowSpec(ObjectiveSpec):
    """Predict the clean sample on flow's path, with the velocity's error for a loss (JiT, arXiv:2511.13720)."""

    name: Literal["x0-flow"] = "x0-flow"
    clamp: Annotated[
        float,
        Strict(),
        Field(gt=0, le=1, description="below this t, the error of x0 is divided by it instead of by t"),
    ] = 0.05
    process: ClassVar[Process] = "flow"


class X0Flow(Objective):
    """x0, read as the velocity v = (x_t - x0) / max(t, clamp), whose error is the loss (arXiv:2511.13720).

    JiT's t runs the other way, so that its (x_pred - z) / max(1 - t, 0.05) is -v. As its code does, samplers follow
    v below the clamp too: a step that begins there and ends at t = 0 keeps 1 - t / clamp of x_t - x0.
    """

    spec = X0FlowSpec

    def __init__(self, clamp: float) -> None:
        self.clamp = clamp

    def target(self, x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return x0

    def error(self, prediction: Tensor, target: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return (target - prediction) / s.clamp(min=self.clamp)

    def velocity(self, x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return (x_t - prediction) / s.clamp(min=self.clamp)

    def read(self, x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        velocity = self.velocity(x_t, prediction, a, s)
        return x_t - s * velocity, x_t + a * velocity

    def weight_of_x0_error(self, snr: Tensor) -> Tensor:
        # Of max(s, clamp)^2, with s = 1 / (1 + sqrt(snr)), since a + s = 1.
        return (1 / (1 + snr.sqrt())).clamp(min=self.clamp) ** 2
