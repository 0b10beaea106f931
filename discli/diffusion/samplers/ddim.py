"""DDIM, with as much noise as one wants.

diffusers' DDIMScheduler steps to t - 1000 // n instead of the next timestep of a linspace: on the authors'
test trajectory it ends 1% away after 250 steps and 6% after 50, this one within 1e-9.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from discli.diffusion.samplers import Noise, Predict, Sampler
from discli.diffusion.schedule import Schedule
from discli.recipe.kinds import SamplerSpec
from discli.recipe.sample import SampleSpec
from discli.recipe.spec import Fraction


class DdimSpec(SamplerSpec):
    """DDIM (arXiv:2010.02502); ``eta`` 0 is deterministic, 1 adds the ancestral amount of noise."""

    name: Literal["ddim"] = "ddim"
    eta: Annotated[Fraction, Field(description="0: no noise; 1: as much as DDPM")] = 0.0


class Ddim(Sampler):
    """DDIM (arXiv:2010.02502, eq. 12 and 16)."""

    spec = DdimSpec

    def __init__(self, schedule: Schedule, settings: SampleSpec, eta: float) -> None:
        super().__init__(schedule, settings)
        self.eta = eta

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        for k, (t, t_next) in enumerate(pairwise(self.times)):
            x0, eps, _ = predict(x, t)
            (a, s), (a_next, s_next) = self.schedule.at(t), self.schedule.at(t_next)
            sigma = self.eta * (s_next / s) * math.sqrt(1 - (a / a_next) ** 2)
            x = a_next * x0 + math.sqrt(s_next**2 - sigma**2) * eps
            if sigma > 0:
                x = x + sigma * noise(k)
            yield x
