"""From noise to samples: one class per sampler, one loop for all.

A sampler has ``times`` (num_steps + 1 of them, the last one clean) and
``step(x, out, now, next, noise)``. These are our own rather than diffusers' because every image
draws its noise from a stream of its own, which diffusers' schedulers offer no place for; and its
DDIMScheduler steps to t - 1000 // n instead of the next timestep of a linspace. Tests hold both to
the authors' trajectories, and the ancestral one to diffusers' DDPMScheduler.

To add one: a class here, its name in ``SAMPLERS``, and a Spec of the same name in
`discli.recipe.sample`.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from discli.diffusion.guidance import Network
from discli.diffusion.loss import split_variance
from discli.diffusion.objective import OBJECTIVES, Objective
from discli.diffusion.posterior import Posterior
from discli.diffusion.schedule import LinearBetas, Schedule, StraightPath, build_schedule
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.sample import Sampler as SamplerSpec


class Sampler(Protocol):
    times: Tensor  # (num_steps + 1,)
    needs_noise: bool

    def step(self, x: Tensor, out: Tensor, now: Tensor, following: Tensor, noise: Tensor | None) -> Tensor:
        """x at ``now`` and the network's answer to the x at ``following``; times are (B,)."""
        ...


class _Discrete:
    """Timesteps evenly from 0 to num_timesteps - 1, both included, largest first, then -1 for clean."""

    def __init__(self, schedule: Schedule, objective: type[Objective], num_steps: int, clip_denoised: bool) -> None:
        assert isinstance(schedule, LinearBetas)
        last = schedule.num_timesteps - 1
        # A single step starts where all noise is.
        spaced = [round(i * last / (num_steps - 1)) for i in range(num_steps)] if num_steps > 1 else [last]
        self.times = torch.tensor([*reversed(spaced), -1])
        self.schedule = schedule
        self.objective = objective
        self.clip_denoised = clip_denoised

    def _read(self, x: Tensor, prediction: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = self.schedule.coefficients(t, x)
        x0, noise = self.objective.read(x, prediction, a, s)
        if self.clip_denoised:
            x0 = x0.clamp(-1, 1)
            noise = (x - a * x0) / s
        return x0, noise


class Ddpm(_Discrete):
    """Ancestral sampling (arXiv:2006.11239, algorithm 2), with the learned variance where there is one."""

    needs_noise = True

    def step(self, x: Tensor, out: Tensor, now: Tensor, following: Tensor, noise: Tensor | None) -> Tensor:
        prediction, interpolation = split_variance(out, x.shape[1])
        x0, _ = self._read(x, prediction, now)
        posterior = Posterior(self.schedule.alphas_cumprod, now, following, like=x)
        mean = posterior.mean(x0, x)
        if noise is None:
            return mean
        log_variance = posterior.log_variance
        if interpolation is not None:
            log_variance = posterior.interpolated_log_variance(interpolation)
        return mean + torch.exp(0.5 * log_variance) * noise


class Ddim(_Discrete):
    """DDIM (arXiv:2010.02502, eq. 12 and 16)."""

    def __init__(
        self,
        schedule: Schedule,
        objective: type[Objective],
        num_steps: int,
        clip_denoised: bool,
        eta: float,
    ) -> None:
        super().__init__(schedule, objective, num_steps, clip_denoised)
        self.eta = eta
        self.needs_noise = eta > 0

    def step(self, x: Tensor, out: Tensor, now: Tensor, following: Tensor, noise: Tensor | None) -> Tensor:
        prediction, _ = split_variance(out, x.shape[1])
        x0, eps = self._read(x, prediction, now)
        abar = torch.cat([torch.ones(1, dtype=torch.float64), self.schedule.alphas_cumprod]).to(now.device)
        here, there = (abar[t + 1][:, None, None, None] for t in (now, following))
        sigma = self.eta * ((1 - there) / (1 - here) * (1 - here / there)).sqrt()
        direction = (1 - there - sigma**2).sqrt()
        moved = there.sqrt().to(x.dtype) * x0 + direction.to(x.dtype) * eps
        return moved if noise is None else moved + sigma.to(x.dtype) * noise


class EulerFlow:
    """x + (t_next - t) * velocity, t from 1 to 0 in equal steps (arXiv:2401.08740, eq. 2)."""

    needs_noise = False

    def __init__(self, schedule: Schedule, objective: type[Objective], num_steps: int, clip_denoised: bool) -> None:
        assert isinstance(schedule, StraightPath)
        self.times = torch.linspace(1, 0, num_steps + 1)

    def step(self, x: Tensor, out: Tensor, now: Tensor, following: Tensor, noise: Tensor | None) -> Tensor:
        return x + (following - now)[:, None, None, None].to(x.dtype) * out


SAMPLERS: dict[str, Callable[..., Sampler]] = {"ddpm": Ddpm, "ddim": Ddim, "euler": EulerFlow}


def build_sampler(choice: SamplerSpec, diffusion: DiffusionSpec, num_steps: int, clip_denoised: bool) -> Sampler:
    return SAMPLERS[choice.name](
        build_schedule(diffusion),
        OBJECTIVES[diffusion.objective.name],
        num_steps=num_steps,
        clip_denoised=clip_denoised,
        **choice.model_dump(exclude={"name"}),
    )


@torch.no_grad()
def trajectory(
    network: Network,
    sampler: Sampler,
    schedule: Schedule,
    x: Tensor,
    y: Tensor | None,
    noise: Callable[[int], Tensor],
) -> Iterator[Tensor]:
    """Yields x (B, C, H, W) after every step, starting from pure noise ``x``.

    ``noise(k)`` gives step k's noise, (B, C, H, W), k = 0 at the largest t; it is asked for only
    where the sampler uses it, which the last step never does.
    """
    times = sampler.times.to(x.device)
    last = len(times) - 2
    for k in range(last + 1):
        now, following = times[k].expand(len(x)), times[k + 1].expand(len(x))
        out = network(x, schedule.model_time(now), y).to(x.dtype)
        x = sampler.step(x, out, now, following, noise(k) if sampler.needs_noise and k < last else None)
        yield x
