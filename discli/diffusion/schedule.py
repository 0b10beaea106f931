"""The noise process: x_t = a_t x0 + s_t eps, with a_t and s_t from one of two schedules.

Training asks for batches of timesteps: ``coefficients(t, like)``, ``timestep(fraction)``,
``model_time(t)``. Sampling goes from one time to the next, both plain numbers: ``at(t)``,
``clean`` (the time at which nothing is noise), ``fraction(t)``, and ``ode_variables(t)`` with
``slope(x0, eps)``, the variables in which the probability-flow ODE is dz/dtau = slope.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor

from discli.diffusion.copied import Copied
from discli.recipe.diffusion import DiffusionSpec


class LinearBetaSchedule:
    """Betas linear from beta_start to beta_end (DDPM, arXiv:2006.11239, section 4), in float64.

    a_t = sqrt(alphas_cumprod[t]), s_t = sqrt(1 - alphas_cumprod[t]); t = 0 .. num_timesteps - 1, int64.
    """

    def __init__(self, num_timesteps: int, beta_start: float, beta_end: float) -> None:
        self.num_timesteps = num_timesteps
        betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self._copied = Copied(self.alphas_cumprod)

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t, (B, 1, 1, 1) in the dtype of ``like``."""
        abar = self.alphas_cumprod_on(t.device)[t][:, None, None, None]
        return abar.sqrt().to(like.dtype), (1 - abar).sqrt().to(like.dtype)

    def alphas_cumprod_on(self, device: torch.device) -> Tensor:
        """(num_timesteps,) float64."""
        return self._copied.on(device)[0]

    def timestep(self, fraction: Tensor) -> Tensor:
        """(B,) in [0, 1) to (B,) int64 in 0 .. num_timesteps - 1."""
        return (fraction.double() * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)

    def earlier(self, t: Tensor, share: Tensor) -> Tensor:
        """(B,) timesteps less noisy than ``t`` by a ``share`` (B,) of all, rounded down; not below the first."""
        return (t - share * self.num_timesteps).clamp(min=0).long()

    def as_noisy(self, time: Tensor) -> Tensor:
        """(B,) times of the straight path to (B,) int64, the timesteps whose s / a is nearest, by its logarithm."""
        abar = self.alphas_cumprod_on(time.device)
        log_sigma = ((1 - abar) / abar).log() / 2
        return torch.bucketize(torch.logit(time.double()), (log_sigma[1:] + log_sigma[:-1]) / 2)

    def model_time(self, t: Tensor) -> Tensor:
        """(B,) timesteps as the network takes them: as they are."""
        return t

    clean = -1

    def at(self, t: float) -> tuple[float, float]:
        """a_t and s_t; t = -1 is the clean sample."""
        abar = 1.0 if t < 0 else float(self.alphas_cumprod[int(t)])
        return math.sqrt(abar), math.sqrt(1 - abar)

    def fraction(self, t: float) -> float:
        """How far t is from clean, 0 to 1."""
        return (t + 1) / self.num_timesteps

    def ode_variables(self, t: float) -> tuple[float, float]:
        """scale and tau: with z = x / scale, dz/dtau is the noise (arXiv:2010.02502, eq. 14)."""
        a, s = self.at(t)
        return a, s / a

    @staticmethod
    def slope(x0: Tensor, eps: Tensor) -> Tensor:
        """dz/dtau of the probability-flow ODE; all (B, C, H, W)."""
        return eps

    def for_network(self, t: float, like: Tensor) -> Tensor:
        """(B,) int64: the time as the network takes it."""
        return torch.full((len(like),), int(t), device=like.device)


class LinearInterpolant:
    """a_t = 1 - t, s_t = t; t in [0, 1] (SiT's linear interpolant, arXiv:2401.08740, section 2).

    ``time_shift`` moves training's times towards noise, as `shifted` does.
    """

    def __init__(self, num_timesteps: int, time_shift: float = 1.0) -> None:
        self.num_timesteps, self.time_shift = num_timesteps, time_shift

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t, (B, 1, 1, 1) in the dtype of ``like``."""
        s = t[:, None, None, None].to(like.dtype)
        return 1 - s, s

    def timestep(self, fraction: Tensor) -> Tensor:
        """(B,) in [0, 1), which are its timesteps before the shift, in the same dtype."""
        if self.time_shift == 1.0:
            return fraction
        return shifted(fraction.double(), self.time_shift).to(fraction.dtype)

    def earlier(self, t: Tensor, share: Tensor) -> Tensor:
        """(B,) times that are less noisy than ``t`` by ``share`` (B,); not below 0. ``time_shift`` is in t already."""
        return (t - share).clamp(min=0)

    def as_noisy(self, time: Tensor) -> Tensor:
        """(B,) times of the straight path, as they are."""
        return time

    def model_time(self, t: Tensor) -> Tensor:
        """(B,) in [0, 1) to (B,): the network's time embedding expects numbers of the size of DDPM's timesteps."""
        return t * self.num_timesteps

    clean = 0

    def at(self, t: float) -> tuple[float, float]:
        """a_t and s_t."""
        return 1.0 - t, t

    def fraction(self, t: float) -> float:
        """How far t is from clean, 0 to 1."""
        return t

    def ode_variables(self, t: float) -> tuple[float, float]:
        """scale and tau: dx/dt is the velocity as it is."""
        return 1.0, t

    @staticmethod
    def slope(x0: Tensor, eps: Tensor) -> Tensor:
        """dx/dt of the probability-flow ODE; all (B, C, H, W)."""
        return eps - x0

    def for_network(self, t: float, like: Tensor) -> Tensor:
        """(B,) float: the time as the network takes it."""
        return torch.full((len(like),), t * self.num_timesteps, device=like.device, dtype=torch.float32)


Time = TypeVar("Time", float, Tensor)


def shifted(t: Time, shift: float) -> Time:
    """shift t / (1 + (shift - 1) t): the same signal for each element as t has on fewer of them.

    Stable Diffusion 3's, for more pixels (arXiv:2403.03206, eq. 23): shift = sqrt(m / n) of m pixels, where t suits n.
    s / a becomes shift times as large.
    """
    return shift * t / (1 + (shift - 1) * t)


Schedule = LinearBetaSchedule | LinearInterpolant


def build_schedule(choice: DiffusionSpec) -> Schedule:
    """The schedule of the objective's noise process."""
    if choice.objective.process == "flow":
        return LinearInterpolant(choice.num_timesteps, choice.time_shift)
    return LinearBetaSchedule(choice.num_timesteps, choice.beta_start, choice.beta_end)
