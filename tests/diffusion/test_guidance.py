"""Guidance against its formula: channels, interval, schedules of the scale, autoguidance."""

import math

import pytest
import torch

from discli.diffusion import build_schedule, count_evaluations
from discli.diffusion.guidance import guided, scale_at
from discli.recipe.sample import SampleSpec
from tests.diffusion.gaussian import diffusion_of

BETAS = build_schedule(diffusion_of("v"))
FLOW = build_schedule(diffusion_of("flow"))


def _settings(**given) -> SampleSpec:
    return SampleSpec.model_validate({"sampler": "euler", **given})


def _network(x, t, y):
    """Prediction and variance are the class number, times x."""
    return torch.cat([x, x], dim=1) * y.double()[:, None, None, None]


@pytest.mark.parametrize(("channels", "guided_count"), [("all", 4), ("first-three", 3)])
def test_guidance_moves_the_prediction_and_leaves_the_variance(channels, guided_count):
    x, y = torch.ones(2, 4, 1, 1, dtype=torch.float64), torch.tensor([1, 2])
    settings = _settings(cfg_scale=3.0, guided_channels=channels)
    out = guided(_network, settings, BETAS, null_class=5)(x, 500, y)
    expected = torch.tensor([[5 + 3 * (1 - 5)], [5 + 3 * (2 - 5)]], dtype=torch.float64)
    assert torch.equal(out[:, :guided_count, 0, 0], expected.expand(2, guided_count))
    assert torch.equal(out[:, guided_count:, 0, 0], y.double()[:, None].expand(2, 8 - guided_count))


def test_both_halves_share_one_forward_and_none_is_spent_at_scale_one():
    sizes = []

    def network(x, t, y):
        sizes.append(len(x))
        return x

    x, y = torch.ones(3, 4, 1, 1), torch.tensor([0, 1, 2])
    for scale in (2.0, 1.0):
        guided(network, _settings(cfg_scale=scale), BETAS, null_class=5)(x, 10, y)
    assert sizes == [6, 3]


def test_autoguidance_pushes_away_from_the_weaker_model_of_the_same_class():
    x, y = torch.ones(2, 4, 1, 1, dtype=torch.float64), torch.tensor([1, 2])
    settings = _settings(cfg_scale=3.0, guidance={"name": "autoguidance", "checkpoint": "weak"})
    out = guided(_network, settings, BETAS, 5, guide=lambda x, t, y: 0.5 * _network(x, t, y))(x, 500, y)
    assert out[:, 0, 0, 0].tolist() == [0.5 + 3 * 0.5, 1.0 + 3 * 1.0]
    assert out[:, 4, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("schedule", [BETAS, FLOW])
def test_guidance_interval_is_in_noise_levels(schedule):
    scale = scale_at(_settings(cfg_scale=3.0, cfg_interval={"low": 0.5, "high": 2.0}), schedule)
    times = range(1000) if schedule is BETAS else [k / 100 for k in range(101)]
    for t in times:
        a, s = schedule.at(t)
        inside = a > 0 and 0.5 < s / a <= 2.0
        assert scale(t) == (3.0 if inside else 1.0)
    assert {scale(t) for t in times} == {1.0, 3.0}


def test_an_interval_saves_evaluations():
    diffusion = diffusion_of("flow")
    whole = count_evaluations(diffusion, _settings(steps=100, cfg_scale=2.0), 3)
    # Noise level t / (1 - t) in (0.25, 1]: t in (0.2, 0.5], 30 of 100 steps.
    part = count_evaluations(diffusion, _settings(steps=100, cfg_scale=2.0, cfg_interval={"low": 0.25, "high": 1.0}), 3)
    assert (whole, part) == (200, 130)


def test_schedules_of_the_scale_rise_from_one_to_the_whole():
    linear = scale_at(_settings(cfg_scale=3.0, cfg_schedule="linear"), FLOW)
    assert [linear(1.0), linear(0.75), linear(0.0)] == [1.0, 1.5, 3.0]
    cosine = scale_at(_settings(cfg_scale=3.0, cfg_schedule={"name": "cosine", "power": 2.0}), FLOW)
    assert cosine(1.0) == 1.0
    assert cosine(0.5) == pytest.approx(1 + (1 - math.cos(math.pi / 4)))
    assert cosine(0.0) == pytest.approx(3.0)
