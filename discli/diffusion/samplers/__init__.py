"""From noise to samples, one file for each way.

A sampler is given the network's answers already guided and read as x0 and noise, so that most serve eps,
v, x0 and flow alike. It draws no noise itself: every image has a random stream of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from discli.diffusion.guidance import GuidedNetwork
from discli.diffusion.loss import split_variance
from discli.diffusion.objectives import Objective
from discli.diffusion.schedule import LinearInterpolant, Schedule
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
    """Walks along ``times``: num_steps + 1 of them, from pure noise to clean."""

    spec: ClassVar[type[ChoiceSpec]]
    schedule: Schedule

    def __init__(self, schedule: Schedule, num_steps: int) -> None:
        self.schedule, self.times = schedule, timestep_grid(schedule, num_steps)

    @abstractmethod
    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yields x (B, C, H, W) after every step, starting from pure noise ``x``; the last one is the sample.

        ``noise(k)`` costs time, so it is called only where it is used; the last step never uses it.
        """


def predictor(
    network: GuidedNetwork, schedule: Schedule, objective: Objective, y: Tensor | None, clip_denoised: bool
) -> Predict:
    """``predict(x, t)`` for classes y (B,); ``clip_denoised`` clamps x0 to [-1, 1] and makes eps fit it."""

    def predict(x: Tensor, t: float) -> Prediction:
        out, interpolation = split_variance(network(x, t, y).to(x.dtype), x.shape[1])
        # Zero-dimensional, on the CPU: a kernel's argument on any device, not a copy to wait for.
        a, s = (torch.tensor(number, dtype=torch.float64) for number in schedule.at(t))
        x0, eps = objective.read(x, out, a, s)
        if clip_denoised:
            x0 = x0.clamp(-1, 1)
            eps = (x - a * x0) / s
        return Prediction(x0, eps, interpolation)

    return predict


def timestep_grid(schedule: Schedule, num_steps: int) -> list[float]:
    """num_steps + 1 times from pure noise to clean: linspace(T - 1, 0) rounded and then -1, or 1 to 0 for flow."""
    if isinstance(schedule, LinearInterpolant):
        return [1 - k / num_steps for k in range(num_steps + 1)]
    last = schedule.num_timesteps - 1
    # A single step starts where all noise is.
    spaced = [round(k * last / (num_steps - 1)) for k in range(num_steps)] if num_steps > 1 else [last]
    return [*reversed(spaced), schedule.clean]
