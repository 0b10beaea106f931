"""Heun's method along the probability-flow ODE, as EDM samples.

One class serves eps, v, x0 and flow. diffusers has HeunDiscreteScheduler for the first three and another
for flow, whose path ends at t = 1/1000.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor

from discli.diffusion.samplers import Noise, Predict, Sampler
from discli.recipe.kinds import Process, SamplerSpec


class HeunSpec(SamplerSpec):
    """Heun's second-order steps (arXiv:2206.00364, algorithm 1): two calls a step, one in the last."""

    name: Literal["heun"] = "heun"
    fits: ClassVar[tuple[Process, ...]] = ("betas", "flow")


class Heun(Sampler):
    """Euler's step, then again with the mean of both ends' slopes (arXiv:2206.00364, algorithm 1)."""

    spec = HeunSpec

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        schedule = self.schedule
        for t, t_next in pairwise(self.times):
            here = predict(x, t)
            if t_next == schedule.clean:
                yield here.x0
                return
            a, s = schedule.at(t_next)
            there = predict(a * here.x0 + s * here.eps, t_next)
            slope = (schedule.slope(here.x0, here.eps) + schedule.slope(there.x0, there.eps)) / 2
            (scale, tau), (scale_next, tau_next) = schedule.ode_variables(t), schedule.ode_variables(t_next)
            x = scale_next * (x / scale + (tau_next - tau) * slope)
            yield x
