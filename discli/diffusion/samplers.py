"""From noise to samples: one class per sampler, all called alike.

``sampler.steps(predict, x, noise)`` yields x (B, C, H, W) after every step. ``predict(x, t)`` is
the network's answer, guided, read as x0 and noise; ``noise(k)`` gives step k's noise, k = 0 at the
largest t, and is asked for only where a sampler uses it. The last step never does.

The multistep solvers are diffusers' own schedulers. The single-step ones are ours, because every
image draws its noise from a stream of its own, which diffusers' DDPMScheduler and DDIMScheduler
offer no place for, and because

- DDIMScheduler steps to t - 1000 // n instead of the next timestep of a linspace: on the authors' test
  trajectory it ends 1% away after 250 steps and 6% after 50, ours within 1e-9;
- one class here serves eps, v, x0 and flow, where diffusers has EulerDiscreteScheduler and
  HeunDiscreteScheduler for the first three and two others for flow, whose path ends at t = 1/1000.

Tests hold them to the authors' trajectories, to diffusers', and to exact solutions.

To add one: a class here, its name in ``SAMPLERS``, and a Spec of the same name in
`discli.recipe.sample` that says which noise processes it fits.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from discli.diffusion.guidance import Guided
from discli.diffusion.loss import split_variance
from discli.diffusion.objective import Objective
from discli.diffusion.posterior import Posterior
from discli.diffusion.schedule import LinearBetaSchedule, LinearInterpolant, Schedule
from discli.recipe.sample import Sampler as SamplerSpec


class Prediction(NamedTuple):
    """x_t taken apart: x_t = a x0 + s eps; the variance's interpolation where one is learned. (B, C, H, W) each."""

    x0: Tensor
    eps: Tensor
    interpolation: Tensor | None


Predict = Callable[[Tensor, float], Prediction]
Noise = Callable[[int], Tensor]


class Sampler(Protocol):
    @property
    def times(self) -> Sequence[float]:
        """When x is before the first step, and after each; the last is the schedule's clean one."""
        ...

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]: ...


def predictor(
    network: Guided, schedule: Schedule, objective: type[Objective], y: Tensor | None, clip_denoised: bool
) -> Predict:
    """``predict(x, t)`` for samplers; ``clip_denoised`` clamps x0 to [-1, 1] and makes eps fit it."""

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


class Ddpm:
    """Ancestral sampling (arXiv:2006.11239, algorithm 2), with the learned variance where there is one."""

    def __init__(self, schedule: LinearBetaSchedule, num_steps: int) -> None:
        self.schedule, self.times = schedule, timestep_grid(schedule, num_steps)

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        # All coefficients at once, and on the device before the loop, which then never waits for a copy.
        times = torch.tensor(self.times, dtype=torch.int64)
        posteriors = Posterior(self.schedule.alphas_cumprod, times[:-1], times[1:], like=x)
        for k, (now, following) in enumerate(pairwise(self.times)):
            x0, _, interpolation = predict(x, now)
            posterior = posteriors[k]
            mean = posterior.mean(x0, x)
            if following == self.schedule.clean:
                yield mean
                return
            log_variance = posterior.log_variance
            if interpolation is not None:
                log_variance = posterior.interpolated_log_variance(interpolation)
            x = mean + torch.exp(0.5 * log_variance) * noise(k)
            yield x


class Ddim:
    """DDIM (arXiv:2010.02502, eq. 12 and 16)."""

    def __init__(self, schedule: LinearBetaSchedule, num_steps: int, eta: float) -> None:
        self.schedule, self.times, self.eta = schedule, timestep_grid(schedule, num_steps), eta

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        for k, (now, following) in enumerate(pairwise(self.times)):
            x0, eps, _ = predict(x, now)
            (a, s), (a_next, s_next) = self.schedule.at(now), self.schedule.at(following)
            sigma = self.eta * (s_next / s) * math.sqrt(1 - (a / a_next) ** 2)
            x = a_next * x0 + math.sqrt(s_next**2 - sigma**2) * eps
            if sigma > 0:
                x = x + sigma * noise(k)
            yield x


class Euler:
    """x0 and eps of one time taken to the next: for flow x + (t_next - t) velocity, for the others DDIM."""

    def __init__(self, schedule: Schedule, num_steps: int) -> None:
        self.schedule, self.times = schedule, timestep_grid(schedule, num_steps)

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        for now, following in pairwise(self.times):
            x0, eps, _ = predict(x, now)
            a, s = self.schedule.at(following)
            x = a * x0 + s * eps
            yield x


class Heun:
    """Euler's step, then again with the mean of both ends' slopes (arXiv:2206.00364, algorithm 1)."""

    def __init__(self, schedule: Schedule, num_steps: int) -> None:
        self.schedule, self.times = schedule, timestep_grid(schedule, num_steps)

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        schedule = self.schedule
        for now, following in pairwise(self.times):
            here = predict(x, now)
            if following == schedule.clean:
                yield here.x0
                return
            a, s = schedule.at(following)
            there = predict(a * here.x0 + s * here.eps, following)
            slope = (schedule.slope(here.x0, here.eps) + schedule.slope(there.x0, there.eps)) / 2
            (scale, tau), (scale_next, tau_next) = schedule.ode_variables(now), schedule.ode_variables(following)
            x = scale_next * (x / scale + (tau_next - tau) * slope)
            yield x


class EulerMaruyama:
    """dx = (v - w/2 score) dt + sqrt(w) dW backwards in time, w = noise_scale t (arXiv:2401.08740, eq. 5).

    score = -eps / t, so that nothing diverges at t = 0. The last step takes the predicted x0.
    """

    def __init__(self, schedule: LinearInterpolant, num_steps: int, noise_scale: float) -> None:
        self.times, self.noise_scale = timestep_grid(schedule, num_steps), noise_scale

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        for k, (now, following) in enumerate(pairwise(self.times)):
            x0, eps, _ = predict(x, now)
            if following == 0:
                yield x0
                return
            h = now - following
            x = x - h * (eps - x0 + self.noise_scale / 2 * eps)
            if self.noise_scale > 0:
                x = x + math.sqrt(self.noise_scale * now * h) * noise(k)
            yield x


class _Multistep(ABC):
    """A scheduler of diffusers that is given x0, on our table of betas in float64 (its own is float32)."""

    takes_noise: ClassVar[bool] = False

    def __init__(self, schedule: LinearBetaSchedule, num_steps: int) -> None:
        # Its times are linspace(T - 1, 0, num_steps + 1) without the 0, all different.
        self.schedule, self.num_steps = schedule, min(num_steps, schedule.num_timesteps - 1)

    @property
    def times(self) -> list[float]:
        return [*self._prepared().timesteps.tolist(), self.schedule.clean]

    def steps(self, predict: Predict, x: Tensor, noise: Noise) -> Iterator[Tensor]:
        scheduler = self._prepared()
        for k, t in enumerate(scheduler.timesteps.tolist()):
            x0 = predict(x, t).x0
            extra = {}
            if self.takes_noise:
                extra["variance_noise"] = noise(k) if k < self.num_steps - 1 else torch.zeros_like(x)
            x = scheduler.step(x0, t, x, return_dict=False, **extra)[0]
            yield x

    def _prepared(self) -> Any:
        scheduler = self._scheduler(num_train_timesteps=self.schedule.num_timesteps, prediction_type="sample")
        scheduler.alphas_cumprod = self.schedule.alphas_cumprod.numpy()
        scheduler.set_timesteps(self.num_steps)
        scheduler.set_begin_index(0)
        return scheduler

    @abstractmethod
    def _scheduler(self, **settings: Any) -> Any:
        """diffusers', with these settings and its own."""


class DpmSolver(_Multistep):
    """diffusers' DPMSolverMultistepScheduler: DPM-Solver++ 2M, midpoint."""

    def _scheduler(self, **settings: Any) -> Any:
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **settings)


class SdeDpmSolver(_Multistep):
    """diffusers' DPMSolverMultistepScheduler: SDE-DPM-Solver++ 2M, midpoint."""

    takes_noise = True

    def _scheduler(self, **settings: Any) -> Any:
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **settings)


class UniPc(_Multistep):
    """diffusers' UniPCMultistepScheduler: order two, B2(h)."""

    def _scheduler(self, **settings: Any) -> Any:
        from diffusers import UniPCMultistepScheduler

        return UniPCMultistepScheduler(**settings)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddpm": Ddpm,
    "ddim": Ddim,
    "dpm-solver++": DpmSolver,
    "sde-dpm-solver++": SdeDpmSolver,
    "unipc": UniPc,
    "euler": Euler,
    "heun": Heun,
    "euler-maruyama": EulerMaruyama,
}


def build_sampler(choice: SamplerSpec, schedule: Schedule, num_steps: int) -> Sampler:
    return SAMPLERS[choice.name](schedule, num_steps=num_steps, **choice.model_dump(exclude={"name"}))
