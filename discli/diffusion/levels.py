"""The noise levels at which losses are compared: between networks, with samples never trained on, with the floor.

A level is known by sigma = s / a of x_t = a x0 + s eps, on which alone the posterior of x0 given x_t depends. The
levels are timesteps of DDPM's schedule; flow takes its times from the same sigmas, so that one floor serves all
objectives.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from discli.diffusion.loss import DiffusionLoss
from discli.diffusion.schedule import LinearBetaSchedule
from discli.recipe.diffusion import DiffusionSpec

COUNT = 24
_LEAST, _MOST = 0.02, 0.98  # of flow's time t = sigma / (1 + sigma), between which the levels are evenly spaced
_DRAWS = 1 << 16  # of the timestep distribution, evenly spaced


class NoiseLevels(NamedTuple):
    """Of one recipe, (L,) each, from little noise to much; L is 24, or fewer where the schedule is that short."""

    t: Tensor  # timesteps of the schedule
    sigma: Tensor  # float64, s / a
    mass: Tensor  # float64, the share of training's timesteps that are nearest to this level; sums to 1
    scale: Tensor  # float64, training's squared error = scale * squared error of x0


def noise_levels(spec: DiffusionSpec) -> NoiseLevels:
    """The levels of a recipe's ``[diffusion]``, and what its loss makes of them."""
    loss = DiffusionLoss(spec)
    wanted = torch.linspace(_LEAST, _MOST, COUNT, dtype=torch.float64)
    wanted = wanted / (1 - wanted)
    if isinstance(loss.schedule, LinearBetaSchedule):
        t, sigma = _nearest(loss.schedule, wanted)
    else:
        _, sigma = _nearest(_ddpm(), wanted)
        t = sigma / (1 + sigma)
    a, s = loss.schedule.coefficients(t, sigma)
    weight = loss.weighting.weight(a, s, loss.objective)
    scale = weight / loss.objective.weight_of_x0_error(1 / sigma**2)
    return NoiseLevels(t, sigma, _mass(loss, sigma), scale.double())


def _ddpm() -> LinearBetaSchedule:
    plain = DiffusionSpec()
    return LinearBetaSchedule(plain.num_timesteps, plain.beta_start, plain.beta_end)


def _nearest(schedule: LinearBetaSchedule, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(t, sigma) of the timesteps nearest to the ``wanted`` sigmas, each once."""
    log_sigma = _sigmas(schedule).log()
    t = (log_sigma - wanted.log()[:, None]).abs().argmin(dim=1).unique()
    return t, log_sigma[t].exp()


def _sigmas(schedule: LinearBetaSchedule) -> Tensor:
    return ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()


def _mass(loss: DiffusionLoss, sigma: Tensor) -> Tensor:
    """Of evenly spaced draws of the recipe's timesteps, the share that is nearest to each sigma, by its logarithm."""
    t = loss.timesteps((torch.arange(_DRAWS, dtype=torch.float64) + 0.5) / _DRAWS)
    a, s = (part.flatten() for part in loss.schedule.coefficients(t, sigma))
    drawn = (s.clamp(min=math.exp(-30)) / a.clamp(min=math.exp(-30))).log()
    borders = (sigma.log()[1:] + sigma.log()[:-1]) / 2
    return torch.bincount(torch.bucketize(drawn, borders), minlength=len(sigma)).double() / _DRAWS
