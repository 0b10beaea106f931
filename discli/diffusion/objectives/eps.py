"""The noise is predicted: DDPM's objective and the paper's."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from discli.diffusion.objectives import Objective
from discli.recipe.kinds import ObjectiveSpec
from discli.recipe.spec import Flag


class EpsSpec(ObjectiveSpec):
    """Predict the noise; ``learn_sigma`` adds the learned variance of arXiv:2102.09672."""

    name: Literal["eps"] = "eps"
    learn_sigma: Annotated[Flag, Field(description="learn the variance too")] = True

    def learns_variance(self) -> bool:
        return self.learn_sigma


class Eps(Objective):
    """The noise itself (arXiv:2006.11239, eq. 14)."""

    spec = EpsSpec

    def __init__(self, learn_sigma: bool) -> None:
        self.learn_sigma = learn_sigma  # `discli.diffusion.loss` splits the variance off before it comes here

    def target(self, x0: Tensor, noise: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return noise

    def read(self, x_t: Tensor, prediction: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return (x_t - s * prediction) / a, prediction

    def weight_of_x0_error(self, snr: Tensor) -> Tensor:
        return 1 / snr
