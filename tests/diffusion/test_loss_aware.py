"""The schedule of the optimal loss (arXiv:2506.13763): its timesteps and its weights, against their formulas."""

import math
from itertools import pairwise

import pytest
import torch

from discli.diffusion import DiffusionLoss
from discli.diffusion.levels import noise_levels
from discli.diffusion.timesteps.loss_aware import shares
from discli.recipe.diffusion import DiffusionSpec

SIGMAS = (0.05, 0.2, 1.0, 4.0)
SHARE = (0.1, 0.5, 0.4, 0.0)
FLOOR = (0.0, 0.001, 0.2, 0.4)
TIMES = {"name": "loss-aware", "sigmas": SIGMAS, "share": SHARE}
WEIGHTS = {"name": "optimal-loss", "sigmas": SIGMAS, "floor": FLOOR, "cap": 10.0}


def _spec(**settings) -> DiffusionSpec:
    return DiffusionSpec.model_validate(settings)


@pytest.mark.parametrize("objective", ["x0-flow", "flow", "v"])
def test_each_level_is_drawn_as_often_as_its_share(objective):
    loss = DiffusionLoss(_spec(objective=objective, timesteps=TIMES))
    t = loss.timesteps((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    a, s = (part.flatten() for part in loss.schedule.coefficients(t, t.double()))
    log_sigmas = torch.tensor(SIGMAS).double().log()
    nearest = torch.bucketize((s / a).log(), (log_sigmas[1:] + log_sigmas[:-1]) / 2)
    found = torch.bincount(nearest, minlength=4) / len(t)
    # DDPM's timesteps are so few at little noise that some lie on the other side of a border.
    assert found.tolist() == pytest.approx(SHARE, abs=1e-4 if objective != "v" else 0.02)


def test_within_a_level_times_of_the_straight_path_are_even_and_reach_both_ends():
    draws = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    t = DiffusionLoss(_spec(objective="flow", timesteps=TIMES | {"share": (0.5, 0, 0, 0.5)})).timesteps(draws)
    border = math.sqrt(0.05 * 0.2) / (1 + math.sqrt(0.05 * 0.2))
    low, high = t[: len(t) // 2], t[len(t) // 2 :]
    torch.testing.assert_close(low, border * 2 * draws[: len(t) // 2])
    assert (float(low.min()), float(high.max())) == pytest.approx((0, 1), abs=1e-4)
    assert float(high.max()) < 1


def test_an_even_share_by_cell_of_time_is_uniform():
    borders = [0.0, *(math.sqrt(a * b) / (1 + math.sqrt(a * b)) for a, b in pairwise(SIGMAS)), 1]
    share = [high - low for low, high in pairwise(borders)]
    draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    t = DiffusionLoss(_spec(objective="flow", timesteps=TIMES | {"share": share})).timesteps(draws)
    torch.testing.assert_close(t, draws)


def test_shares_are_weight_times_gap_over_log_sigma():
    sigmas = [1.0, math.e, math.e**3]  # as wide as 1, 1.5, 2
    found = shares(sigmas, [3.0, 2.0, 1.0], [1.0, 2.0, -0.5])
    mass = [3.0 * 1.0, 2.0 * 2.0 * 1.5, 0.0]
    assert found == pytest.approx([0.95 * one / sum(mass) + 0.05 / 3 for one in mass])
    assert shares(sigmas, [1.0] * 3, [-1.0] * 3) == pytest.approx([1 / 3] * 3)


def test_weights_are_the_inverse_of_the_optimal_error_of_x0():
    """a min(1 / J*, w*), whatever is predicted; a = J* at the most noise, so that a w* is the cap."""
    for objective in ("x0-flow", "flow", "v", "x0"):
        loss = DiffusionLoss(_spec(objective=objective, weighting=WEIGHTS))
        t = loss.schedule.as_noisy(torch.tensor([s / (1 + s) for s in (0.01, 0.2, 1.0, 2.0, 4.0, 20.0)]).double())
        x0, noise, out = torch.randn(3, 6, 3, 4, 4, dtype=torch.float64).unbind()
        x_t, _ = loss.noisy(x0, t, noise)
        a, s = loss.schedule.coefficients(t, x0)
        sigma = (s / a).flatten()
        best = torch.tensor(
            [_interpolated(float(one)) for one in sigma],
            dtype=torch.float64,
        )
        expected = (0.4 / best.clamp(min=1e-9)).clamp(max=10) * _x0_error(loss, out, x0, x_t, a, s)
        torch.testing.assert_close(loss(out, x0, x_t, t, noise).mse, expected, rtol=1e-6, atol=1e-9)


def _x0_error(loss, out, x0, x_t, a, s):
    x0_hat = (
        out if loss.objective.spec.model_fields["name"].default == "x0-flow" else loss.objective.read(x_t, out, a, s)[0]
    )
    return ((x0_hat - x0) ** 2).flatten(1).mean(1)


def _interpolated(sigma: float) -> float:
    logs = [math.log(one) for one in SIGMAS]
    at = min(max(math.log(sigma), logs[0]), logs[-1])
    k = next(k for k in range(1, 4) if at <= logs[k] + 1e-12)
    return FLOOR[k - 1] + (at - logs[k - 1]) / (logs[k] - logs[k - 1]) * (FLOOR[k] - FLOOR[k - 1])


def test_the_bump_is_a_normal_below_where_the_floor_rises():
    plain, focused = (
        DiffusionLoss(
            _spec(objective="flow", weighting=WEIGHTS | {"focus": focus, "focus_mean": -2.0, "focus_std": 0.5})
        )
        for focus in (0.0, 3.0)
    )
    at = torch.tensor([-2.5, -2.0, -1.5], dtype=torch.float64)  # sigma* is 0.2, of the last level below 1% of 0.4
    bump = 3.0 * torch.exp(-0.5 * ((at + 2) / 0.5) ** 2) / (0.5 * math.sqrt(2 * math.pi))
    found = focused.weighting.of_x0(at) - plain.weighting.of_x0(at)
    torch.testing.assert_close(found, torch.where(at < math.log(0.2), bump, 0.0))


def test_levels_know_both():
    """What floor, held-out loss and gap go by: masses are the shares, scales the weights."""
    spec = _spec(objective="x0-flow", timesteps=TIMES, weighting=WEIGHTS)
    levels = noise_levels(spec)
    plain = noise_levels(_spec(objective="x0-flow"))
    of_x0 = DiffusionLoss(spec).weighting.of_x0(levels.sigma.log())
    torch.testing.assert_close(levels.scale, of_x0)
    assert float(levels.mass.sum()) == pytest.approx(1)
    assert levels.sigma.tolist() == plain.sigma.tolist()  # one floor serves all


@pytest.mark.parametrize(
    "settings",
    [
        {"timesteps": TIMES | {"share": (1.0,)}},
        {"timesteps": TIMES | {"share": (0.0, 0.0, 0.0, 0.0)}},
        {"timesteps": TIMES | {"share": (0.5, -0.1, 0.3, 0.3)}},
        {"timesteps": TIMES | {"sigmas": (1.0, 0.5, 2.0, 4.0)}},
        {"timesteps": "loss-aware"},
        {"weighting": WEIGHTS | {"floor": (0.1, 0.2)}},
        {"weighting": WEIGHTS | {"floor": (0.1, 0.2, 0.3, 0.0)}},
        {"weighting": WEIGHTS | {"cap": 0.0}},
    ],
)
def test_tables_that_are_none_are_refused(settings):
    with pytest.raises(ValueError, match=r"share|sigmas|floor|cap|loss-aware"):
        _spec(objective="flow", **settings)
