"""The training loss: squared error, plus the variational bound where the variance is learned."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from discli.diffusion.objectives import Objective
from discli.diffusion.posterior import Posterior
from discli.diffusion.schedule import LinearBetaSchedule, build_schedule
from discli.diffusion.timesteps import TimestepDistribution
from discli.diffusion.weightings import Weighting
from discli.recipe.choices import build
from discli.recipe.diffusion import DiffusionSpec


class Losses(NamedTuple):
    """Per sample, (B,)."""

    loss: Tensor
    mse: Tensor
    vb: Tensor | None  # bits per dimension


class DiffusionLoss:
    """Prepares noisy inputs and scores the network's answer.

    The two halves are separate so that the training loop calls the network itself:
    ``x_t, t_model = loss.noisy(x0, t, noise)``, then ``loss(out, x0, x_t, t, noise)``.
    """

    def __init__(self, spec: DiffusionSpec) -> None:
        self.schedule, self.contrastive = build_schedule(spec), spec.contrastive
        self.objective: Objective = build(spec.objective)
        self.weighting: Weighting = build(spec.weighting)
        self.distribution: TimestepDistribution = build(spec.timesteps)

    def timesteps(self, uniforms: Tensor) -> Tensor:
        """(B,) uniforms in [0, 1) to (B,) timesteps of the chosen distribution."""
        fractions = self.distribution.fractions(uniforms)
        return (self.schedule.as_noisy if self.distribution.of_the_straight_path else self.schedule.timestep)(fractions)

    def noisy(self, x0: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """x_t (B, C, H, W) of x0 and noise alike at t (B,), and t as the network takes it, (B,)."""
        a, s = self.schedule.coefficients(t, x0)
        return a * x0 + s * noise, self.schedule.model_time(t)

    def __call__(
        self, out: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor, other: Tensor | None = None
    ) -> Losses:
        """``out`` (B, C or 2C, H, W) is the network's answer to ``x_t``. Means over C, H, W.

        ``other`` (B, C, H, W): the noise less x0 of another sample each, for a contrastive loss; mse is without it.
        """
        a, s = self.schedule.coefficients(t, x0)
        prediction, interpolation = split_variance(out, x0.shape[1])
        error = self.objective.error(prediction, self.objective.target(x0, noise, a, s), a, s)
        squared = _mean_per_sample(error**2)
        weight = self.weighting.weight(a, s, self.objective).to(squared.dtype)
        mse = squared * weight
        if other is not None:
            away = _mean_per_sample((self.objective.velocity(x_t, prediction, a, s) - other) ** 2)
            return Losses(mse - self.contrastive * weight * away, mse, None)
        if interpolation is None:
            return Losses(mse, mse, None)

        # The bound trains the variance alone (arXiv:2102.09672, section 3.1): its gradient must
        # not reach the prediction.
        x0_read, _ = self.objective.read(x_t, prediction.detach(), a, s)
        vb = self._variational_bound(x0_read, interpolation, x0, x_t, t)
        return Losses(mse + vb, mse, vb)

    def _variational_bound(self, x0_read: Tensor, interpolation: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """L_{t-1} of arXiv:2006.11239, eq. 5, in bits per dimension; at t = 0 the decoder's likelihood."""
        assert isinstance(self.schedule, LinearBetaSchedule)
        posterior = Posterior(self.schedule.alphas_cumprod_on(t.device), t, t - 1, like=x_t)
        log_variance = posterior.interpolated_log_variance(interpolation)
        mean = posterior.mean(x0_read, x_t)
        kl = _normal_kl(posterior.mean(x0, x_t), posterior.log_variance, mean, log_variance)
        decoder = -_discretised_log_likelihood(x0, mean, 0.5 * log_variance)
        per_sample = torch.where(t == 0, _mean_per_sample(decoder), _mean_per_sample(kl))
        return per_sample / math.log(2.0)


def split_variance(out: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """(B, 2C, H, W) to prediction and interpolation, (B, C, H, W) each; (B, C, H, W) to itself and None."""
    if out.shape[1] == channels:
        return out, None
    return out[:, :channels], out[:, channels:]


def _mean_per_sample(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _normal_kl(mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """KL(N_1 || N_2) of diagonal normals, element by element, in nats."""
    ratio = log_variance_1 - log_variance_2
    return 0.5 * (torch.exp(ratio) - 1 - ratio + (mean_1 - mean_2) ** 2 * torch.exp(-log_variance_2))


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P(x) when a normal is cut into 256 bins over [-1, 1] (arXiv:2006.11239, eq. 13), in nats."""
    upper = _normal_cdf((x - mean + 1 / 255) * torch.exp(-log_scale))
    lower = _normal_cdf((x - mean - 1 / 255) * torch.exp(-log_scale))
    # The outermost bins reach to infinity.
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return torch.log(mass.clamp(min=1e-12))


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation (Page, 1977) that improved DDPM scores with, so that bits/dim compare."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
