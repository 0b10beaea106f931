"""From noise to samples, one file for each way.

A sampler is given the network's answers already guided and read as x0 and noise, so that most serve eps,
v, x0 and flow alike. It draws no noise itself: every image has a random stream of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from discli.diffusion.guidance import GuidedNetwork
from discli.diffusion.loss import split_variance
from discli.diffusion.objectives import Objective
from discli.diffusion.schedule import LinearInterpolant, Schedule, build_schedule, shifted
from discli.recipe.choices import build
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.sample import SampleSpec, spaced_timesteps
from discli.recipe.spec import ChoiceSpec


class Prediction(NamedTuple):
    """x_t taken apart: x_t = a x0 + s eps; the variance's interpolation where one is learned. (B, C, H, W) each."""

    x0: Tensor
    eps: Tensor
    interpolation: Tensor | None


# predict(x, t): x (B, C, H, W) at time t of the schedule.
Predict = Callable[[Tensor, float], Prediction]
# noise(k): standard normal (B, C, H, W) of step k, which is 0 at the largest t.
Noise = Callable[[int], Tensor]


class Sampler(ABC):
    """Walks along ``times``: ``settings.steps`` + 1 of them, from pure noise to clean."""

    spec: ClassVar[type[ChoiceSpec]]
    schedule: Schedule

    def __init__(self, schedule: Schedule, settings: SampleSpec) -> None:
        self.schedule, self.times = schedule, timestep_grid(schedule, settings)

    @abstractmethod
    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yields x (B, C, H, W) after every step, starting from ``x`` at ``times[0]``; the last one is the sample.

        ``noise(k)`` costs time, so it is called only where it is used; the step to the clean image never uses it.
        """

    def part(self, first: int, last: int) -> Self:
        """The walk from ``times[first]`` to ``times[last]`` alone, without what lies before or behind."""
        part = copy(self)
        part.times = self.times[first : last + 1]
        return part


def predictor(
    network: GuidedNetwork,
    schedule: Schedule,
    objective: Objective,
    y: Tensor | None,
    clip_denoised: bool,
    correct: Callable[[Tensor, float], Tensor] | None = None,
) -> Predict:
    """``predict(x, t)`` for classes y (B,); ``clip_denoised`` clamps x0 to [-1, 1] and makes eps fit it.

    ``correct(velocity, t)`` (B, C, H, W): another velocity in place of what was predicted on the straight path.
    """

    def predict(x: Tensor, t: float) -> Prediction:
        out, interpolation = split_variance(network(x, t, y).to(x.dtype), x.shape[1])
        # Zero-dimensional, on the CPU: a kernel's argument on any device, not a copy to wait for.
        a, s = (torch.tensor(number, dtype=torch.float64) for number in schedule.at(t))
        x0, eps = objective.read(x, out, a, s)
        if correct is not None:
            velocity = correct(eps - x0, t)
            x0, eps = x - s * velocity, x + a * velocity
        if clip_denoised:
            x0 = x0.clamp(-1, 1)
            eps = (x - a * x0) / s
        return Prediction(x0, eps, interpolation)

    return predict


def build_sampler(diffusion: DiffusionSpec, settings: SampleSpec) -> Sampler:
    """The sampler of ``settings`` along the noise process of ``diffusion``."""
    sampler: Sampler = build(settings.sampler, build_schedule(diffusion), settings)
    return sampler


def timestep_grid(schedule: Schedule, settings: SampleSpec) -> list[float]:
    """steps + 1 times from pure noise to clean: of T timesteps as ``timestep_spacing`` says and then -1.

    1 to 0 for flow, evenly, then shifted by ``time_shift``, as the times of training where it is not given.
    """
    steps = settings.steps
    if isinstance(schedule, LinearInterpolant):
        shift = schedule.time_shift if settings.time_shift is None else settings.time_shift
        return [shifted(1 - k / steps, shift) for k in range(steps + 1)]
    return [*spaced_timesteps(settings.timestep_spacing, schedule.num_timesteps, steps), schedule.clean]
