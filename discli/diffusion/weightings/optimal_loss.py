"""Weights that bring the optimal loss of all noise levels to one size (arXiv:2506.13763)."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, Strict, model_validator
from torch import Tensor

from discli.diffusion.copied import Copied
from discli.diffusion.objectives import Objective
from discli.diffusion.weightings import Weighting
from discli.recipe.kinds import WeightingSpec
from discli.recipe.spec import Positive, Real

_CRITICAL = 0.01  # of the error at the most noise: the last level below has sigma*, from which on the loss is above 0


class OptimalLossWeightingSpec(WeightingSpec):
    """The inverse of the optimal error of x0, in x0 terms (arXiv:2506.13763); ``discli floor RUN --schedule``."""

    name: Literal["optimal-loss"] = "optimal-loss"
    sigmas: Annotated[tuple[Positive, ...], Field(min_length=1, description="noise levels s / a, rising")]
    floor: Annotated[tuple[Real, ...], Field(description="optimal squared error of x0 at each")]
    cap: Annotated[Positive, Field(description="the most, of the weight at the most noise")] = 100.0
    focus: Annotated[
        float, Strict(), Field(ge=0, description="height of a bump in log sigma, below where the floor rises")
    ] = 0.0
    focus_mean: Annotated[Real, Field(description="of the bump, in log sigma")] = 0.0
    focus_std: Annotated[Positive, Field(description="of the bump, in log sigma")] = 1.0

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len(self.floor) != len(self.sigmas) or min(self.floor) < 0 or not self.floor[-1] > 0:
            raise ValueError("floor must be as many as sigmas, none negative, the last above 0")
        if list(self.sigmas) != sorted(set(self.sigmas)):
            raise ValueError("sigmas must rise")
        return self


class OptimalLossWeighting(Weighting):
    """w = min(J*_max / J*, cap) + focus N(log sigma; mean, std^2) [sigma < sigma*], times the squared error of x0.

    The paper's a min(1 / J*, w*) + f(sigma) [sigma < sigma*] with a = J*_max, so that w is 1 at the most noise. J* is
    interpolated in log sigma, and kept beyond the outermost levels.
    """

    spec = OptimalLossWeightingSpec

    def __init__(
        self,
        sigmas: Sequence[float],
        floor: Sequence[float],
        cap: float,
        focus: float = 0.0,
        focus_mean: float = 0.0,
        focus_std: float = 1.0,
    ) -> None:
        log_sigma, optimal = torch.tensor([sigmas, floor], dtype=torch.float64)
        log_sigma = log_sigma.log()
        self._copied, self._ends = Copied(log_sigma, optimal), (float(log_sigma[0]), float(log_sigma[-1]))
        self.cap, self.focus, self.mean, self.std, self._most = cap, focus, focus_mean, focus_std, floor[-1]
        below = (optimal < _CRITICAL * optimal[-1]).nonzero()
        self._critical = float(log_sigma[int(below[-1])]) if len(below) else -math.inf

    def of_x0(self, log_sigma: Tensor) -> Tensor:
        """(B,) weights of the squared error of x0, for (B,) float64."""
        weight = (self._most / self._optimal(log_sigma).clamp(min=1e-30)).clamp(max=self.cap)
        if self.focus:
            bump = torch.exp(-0.5 * ((log_sigma - self.mean) / self.std) ** 2) / (self.std * math.sqrt(2 * math.pi))
            weight = weight + torch.where(log_sigma < self._critical, self.focus * bump, 0.0)
        return weight

    def _optimal(self, log_sigma: Tensor) -> Tensor:
        """J* (B,)."""
        at, floor = self._copied.on(log_sigma.device)
        if len(at) == 1:
            return floor.expand_as(log_sigma)
        wanted = log_sigma.clamp(*self._ends)
        right = torch.bucketize(wanted, at).clamp(1, len(at) - 1)
        share = (wanted - at[right - 1]) / (at[right] - at[right - 1])
        return floor[right - 1] + share * (floor[right] - floor[right - 1])

    def weight(self, a: Tensor, s: Tensor, objective: Objective) -> Tensor:
        ratio = (a.double() / s.double().clamp(min=1e-30)).flatten()
        log_sigma = -ratio.clamp(1e-30, 1e30).log()
        return self.of_x0(log_sigma) * objective.weight_of_x0_error(ratio**2)
