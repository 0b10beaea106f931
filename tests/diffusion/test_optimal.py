"""The optimal loss against what is known: mixtures by numerical integration, and training's own loss."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from discli.diffusion import DiffusionLoss
from discli.diffusion.levels import noise_levels
from discli.diffusion.optimal import Keys, Queries, errors, estimate
from discli.recipe.diffusion import DiffusionSpec

COUNT = 20_000
SIGMAS = (0.1, 0.5, 1.0, 3.0)


def draws(mean: Tensor, std: Tensor | None, count: int = COUNT) -> Queries:
    torch.manual_seed(0)
    index = torch.arange(count) % len(mean)
    own = Keys(mean[index], None if std is None else std[index], index)
    x0 = own.mean if own.std is None else own.mean + own.std * torch.randn(count, mean.shape[1])
    return Queries(x0, torch.randn(count, mean.shape[1]), own)


def in_parts(mean: Tensor, std: Tensor | None, size: int) -> list[Keys]:
    index = torch.arange(len(mean))
    return [
        Keys(mean[i : i + size], None if std is None else std[i : i + size], index[i : i + size])
        for i in range(0, len(mean), size)
    ]


def integrated(means: list[float], stds: list[float], sigma: float) -> float:
    """The optimal error of a mixture on a line: E[x0^2] - E[D^2], with D on a fine grid of z."""
    z = np.linspace(-30, 30, 200_001)
    v = [std**2 + sigma**2 for std in stds]
    density = [np.exp(-((z - m) ** 2) / (2 * u)) / math.sqrt(2 * math.pi * u) for m, u in zip(means, v, strict=True)]
    there = [m + s**2 / u * (z - m) for m, s, u in zip(means, stds, v, strict=True)]
    total = sum(density)
    best = sum(p * d for p, d in zip(density, there, strict=True)) / np.maximum(total, 1e-300)
    square = np.mean([m**2 + s**2 for m, s in zip(means, stds, strict=True)])
    return float(square - np.trapezoid(total / len(means) * best**2, z))


@pytest.mark.parametrize(
    ("means", "stds"), [([-1.0, 0.5, 2.0], [0.0, 0.0, 0.0]), ([-1.0, 0.5, 2.0], [0.3, 0.7, 0.05]), ([0.4], [0.8])]
)
def test_a_mixture_whose_optimal_loss_is_known(means, stds):
    mean, std = torch.tensor(means)[:, None], torch.tensor(stds)[:, None]
    std = std if std.any() else None
    found = estimate(errors(draws(mean, std), in_parts(mean, std, 2), SIGMAS))
    for sigma, error, doubt in zip(SIGMAS, found.mean.tolist(), found.std_error.tolist(), strict=True):
        assert abs(error - integrated(means, stds, sigma)) < 4 * doubt + 1e-5
        assert doubt < 0.02


def test_gaussians_without_spread_are_points():
    mean = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    queries = draws(mean, None, 300)
    spread = queries._replace(own=queries.own._replace(std=torch.zeros(300, 6)))
    one = errors(queries, in_parts(mean, None, 7), SIGMAS)
    other = errors(spread, in_parts(mean, torch.zeros(20, 6), 7), SIGMAS)
    torch.testing.assert_close(one.error, other.error, atol=1e-5, rtol=1e-4)


def test_the_order_and_size_of_parts_do_not_matter():
    mean = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    queries = draws(mean, None, 200)
    whole, parts = (errors(queries, in_parts(mean, None, size), SIGMAS).error for size in (50, 7))
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=1e-5)
    backwards = errors(queries, in_parts(mean, None, 7)[::-1], SIGMAS).error
    torch.testing.assert_close(whole, backwards, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": {"name": "eps", "learn_sigma": False}},
        {"objective": "v", "weighting": "min-snr"},
        {"objective": "x0"},
        {"objective": "flow", "timesteps": "logit-normal"},
        {"objective": "x0-flow", "timesteps": "logit-normal", "time_shift": 2.0},
        {"objective": {"name": "x0-flow", "clamp": 0.5}},
    ],
)
def test_a_network_that_is_the_posterior_mean_has_no_gap(settings):
    """By training's own loss, of the same draws: at every level, for every objective."""
    spec = DiffusionSpec.model_validate(settings)
    loss, levels = DiffusionLoss(spec), noise_levels(spec)
    data = 0.5 * torch.randn(40, 12, generator=torch.Generator().manual_seed(2))
    queries = draws(data, None, 4_000)
    found = estimate(errors(queries, in_parts(data, None, 40), levels.sigma.tolist()))
    x0, noise = (part.double().view(-1, 3, 2, 2) for part in (queries.x0, queries.eps))
    for place, t in enumerate(levels.t):
        times = t.expand(len(x0))
        x_t, _ = loss.noisy(x0, times, noise)
        a, s = (part[0, 0, 0, 0] for part in loss.schedule.coefficients(times, x0))
        square = torch.cdist(x_t.flatten(1) / a, data.double()) ** 2
        best = ((-square * a**2 / s**2 / 2).softmax(1) @ data.double()).view_as(x0)
        out = loss.objective.target(best, (x_t - a * best) / s, a, s)
        mse = loss(out, x0, x_t, times, noise).mse
        gap = mse.mean() - levels.scale[place] * found.mean[place]
        doubt = mse.std() / math.sqrt(len(mse)) + levels.scale[place] * found.std_error[place]
        assert abs(gap) < 3 * doubt + 1e-9 * levels.scale[place], f"level {place}"


def test_the_masses_are_the_timesteps_of_training():
    for settings in ({"objective": "eps"}, {"objective": "flow", "timesteps": "logit-normal"}):
        levels = noise_levels(DiffusionSpec.model_validate(settings))
        assert len(levels.t) == 24
        assert float(levels.mass.sum()) == pytest.approx(1)
        assert (levels.sigma[1:] > levels.sigma[:-1]).all()
    # Far more of the logit-normal's draws are in the middle.
    assert levels.mass[12] > 10 * levels.mass[0]


def test_a_short_schedule_has_fewer_levels():
    levels = noise_levels(DiffusionSpec(num_timesteps=2))
    assert 1 <= len(levels.t) <= 2
    assert float(levels.mass.sum()) == pytest.approx(1)


def test_a_subset_stands_for_all():
    """Weighted as it is, half of the data gives nearly the whole's floor; unweighted it is too low."""
    generator = torch.Generator().manual_seed(3)
    data = torch.randn(2_000, 4, generator=generator)
    part = data[:1_000]
    queries = draws(part, None, 4_000)
    sigmas = [0.3]
    exact = float(estimate(errors(queries, in_parts(data, None, 500), sigmas)).mean)
    weighted = float(estimate(errors(queries, in_parts(part, None, 500), sigmas, weight=1_999 / 999)).mean)
    plain = float(estimate(errors(queries, in_parts(part, None, 500), sigmas)).mean)
    assert abs(weighted - exact) < abs(plain - exact) / 2
