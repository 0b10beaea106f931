"""The Euler-Maruyama method along the reverse SDE of flow models, as SiT samples."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict
from torch import Tensor

from discli.diffusion.samplers import Noise, Predict, Sampler
from discli.diffusion.schedule import Schedule
from discli.recipe.kinds import Process, SamplerSpec
from discli.recipe.sample import SampleSpec


class EulerMaruyamaSpec(SamplerSpec):
    """The reverse SDE of flow models; ``noise_scale`` 1 diffuses as SiT does (arXiv:2401.08740), 0 is Euler."""

    name: Literal["euler-maruyama"] = "euler-maruyama"
    noise_scale: Annotated[float, Strict(), Field(ge=0, description="0: no noise; 1: as SiT")] = 1.0
    fits: ClassVar[tuple[Process, ...]] = ("flow",)


class EulerMaruyama(Sampler):
    """dx = (v - w/2 score) dt + sqrt(w) dW backwards in time, w = noise_scale t (arXiv:2401.08740, eq. 5).

    score = -eps / t, so that nothing diverges at t = 0. The last step takes the predicted x0.
    """

    spec = EulerMaruyamaSpec

    def __init__(self, schedule: Schedule, settings: SampleSpec, noise_scale: float) -> None:
        super().__init__(schedule, settings)
        self.noise_scale = noise_scale

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        for k, (t, t_next) in enumerate(pairwise(self.times)):
            x0, eps, _ = predict(x, t)
            if t_next == 0:
                yield x0
                return
            h = t - t_next
            x = x - h * (eps - x0 + self.noise_scale / 2 * eps)
            if self.noise_scale > 0:
                x = x + math.sqrt(self.noise_scale * t * h) * noise(k)
            yield x
