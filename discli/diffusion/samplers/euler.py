"""Euler's method along the probability-flow ODE: the plainest sampler, and the one to copy."""

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor

from discli.diffusion.samplers import Noise, Predict, Sampler
from discli.recipe.kinds import Process, SamplerSpec


class EulerSpec(SamplerSpec):
    """Euler steps along the probability-flow ODE; for eps, v and x0 models that is DDIM with eta 0."""

    name: Literal["euler"] = "euler"
    fits: ClassVar[tuple[Process, ...]] = ("betas", "flow")


class Euler(Sampler):
    """x0 and eps of one time taken to the next: for flow x + (t_next - t) velocity, for the others DDIM."""

    spec = EulerSpec

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        for t, t_next in pairwise(self.times):
            x0, eps, _ = predict(x, t)
            a, s = self.schedule.at(t_next)
            x = a * x0 + s * eps
            yield x
