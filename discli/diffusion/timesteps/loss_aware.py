"""Timesteps where a run has most to gain: the gap between its loss and the optimal one (arXiv:2506.13763)."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from discli.diffusion.copied import Copied
from discli.diffusion.timesteps import TimestepDistribution
from discli.recipe.spec import ChoiceSpec, Positive, Real

_EVENLY = 0.05  # of the draws: what was fitted well once must not be forgotten


class LossAwareTimestepsSpec(ChoiceSpec):
    """As often as weight and gap to the optimal loss say (arXiv:2506.13763); ``discli floor RUN --schedule``."""

    name: Literal["loss-aware"] = "loss-aware"
    sigmas: Annotated[tuple[Positive, ...], Field(min_length=1, description="noise levels s / a, rising")]
    share: Annotated[tuple[Real, ...], Field(description="of the draws nearest to each level")]

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len(self.share) != len(self.sigmas) or min(self.share) < 0 or not sum(self.share) > 0:
            raise ValueError("share must be as many as sigmas, none negative, and not all 0")
        if list(self.sigmas) != sorted(set(self.sigmas)):
            raise ValueError("sigmas must rise")
        return self


class LossAwareTimesteps(TimestepDistribution):
    """Of each level its share, evenly in t = sigma / (1 + sigma) halfway (in log sigma) to its neighbours.

    The first reaches to t = 0 and the last to t = 1, where sampling begins.
    """

    spec = LossAwareTimestepsSpec
    of_the_straight_path = True

    def __init__(self, sigmas: Sequence[float], share: Sequence[float]) -> None:
        log_sigma = torch.tensor(sigmas, dtype=torch.float64).log()
        middle = torch.sigmoid((log_sigma[1:] + log_sigma[:-1]) / 2)
        borders = torch.cat([middle.new_zeros(1), middle, middle.new_ones(1)])
        below = torch.tensor([0.0, *share], dtype=torch.float64).cumsum(0)
        self._copied = Copied(below / below[-1], borders)

    def fractions(self, uniforms: Tensor) -> Tensor:
        """Times of the straight path, (B,)."""
        below, borders = self._copied.on(uniforms.device)
        wanted = uniforms.double()
        level = (torch.bucketize(wanted, below, right=True) - 1).clamp(max=len(below) - 2)
        within = (wanted - below[level]) / (below[level + 1] - below[level])
        times = borders[level] + within * (borders[level + 1] - borders[level])
        return times.to(uniforms.dtype).clamp(max=1 - 2.0**-24)


def shares(sigmas: Sequence[float], weight: Sequence[float], gap: Sequence[float]) -> list[float]:
    """p(sigma) ~ weight (J - J*), a density over log sigma (arXiv:2506.13763, section 5), as shares of the levels.

    ``gap`` is J - J*, the error of x0 above the optimal one; where it is not above 0, the level gets no more than
    what is spread evenly over all, a twentieth.
    """
    log_sigma = torch.tensor(sigmas, dtype=torch.float64).log()
    middle = (log_sigma[1:] + log_sigma[:-1]) / 2
    ends = torch.cat([2 * log_sigma[:1] - middle[:1], middle, 2 * log_sigma[-1:] - middle[-1:]])
    width = ends[1:] - ends[:-1]
    density = torch.tensor(weight, dtype=torch.float64) * torch.tensor(gap, dtype=torch.float64).clamp(min=0)
    mass = density * width
    mass = mass / mass.sum() if bool(mass.sum() > 0) else torch.full_like(mass, 1 / len(mass))
    found: list[float] = ((1 - _EVENLY) * mass + _EVENLY / len(mass)).tolist()
    return found
