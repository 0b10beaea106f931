"""DDPM's ancestral sampling: how the paper's authors sample.

diffusers' DDPMScheduler draws its own noise, and has no place for a random stream of each image.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from discli.diffusion.posterior import Posterior
from discli.diffusion.samplers import Noise, Predict, Sampler
from discli.diffusion.schedule import LinearBetaSchedule
from discli.recipe.kinds import SamplerSpec


class DdpmSpec(SamplerSpec):
    """Ancestral sampling with the learned variance, as the authors sample (arXiv:2102.09672)."""

    name: Literal["ddpm"] = "ddpm"


class Ddpm(Sampler):
    """Ancestral sampling (arXiv:2006.11239, algorithm 2), with the learned variance where there is one."""

    spec = DdpmSpec
    schedule: LinearBetaSchedule

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        # All coefficients at once, and on the device before the loop, which then never waits for a copy.
        times = torch.tensor(self.times, dtype=torch.int64)
        posteriors = Posterior(self.schedule.alphas_cumprod, times[:-1], times[1:], like=x)
        for k, (t, t_next) in enumerate(pairwise(self.times)):
            x0, _, interpolation = predict(x, t)
            posterior = posteriors[k]
            mean = posterior.mean(x0, x)
            if t_next == self.schedule.clean:
                yield mean
                return
            log_variance = posterior.log_variance
            if interpolation is not None:
                log_variance = posterior.interpolated_log_variance(interpolation)
            x = mean + torch.exp(0.5 * log_variance) * noise(k)
            yield x
