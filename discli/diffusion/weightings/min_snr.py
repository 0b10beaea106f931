"""Min-SNR weighting: nearly clean images, whose error in x0 is small, are kept from ruling the loss."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from discli.diffusion.objectives import Objective
from discli.diffusion.weightings import Weighting
from discli.recipe.kinds import Process, WeightingSpec
from discli.recipe.spec import Positive


class MinSnrWeightingSpec(WeightingSpec):
    """min(SNR, gamma) in x0 terms (arXiv:2303.09556)."""

    name: Literal["min-snr"] = "min-snr"
    gamma: Annotated[Positive, Field(description="the most that the signal-to-noise ratio counts")] = 5.0
    fits: ClassVar[tuple[Process, ...]] = ("betas",)


class MinSnrWeighting(Weighting):
    """min(snr, gamma) times the squared error of x0 (arXiv:2303.09556, section 3.4), whatever is predicted."""

    spec = MinSnrWeightingSpec

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def weight(self, a: Tensor, s: Tensor, objective: Objective) -> Tensor:
        snr = (a.double() / s.double()).flatten() ** 2
        return snr.clamp(max=self.gamma) * objective.weight_of_x0_error(snr)
