"""Weight averages against what they are defined to be."""

import numpy as np
import pytest
import torch
from torch import nn

from discli.training.ema import ConstantEma, PowerEma, gamma_of, posthoc_average


def _line(step: int) -> nn.Module:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, float(step))
    return model


def test_constant_ema_equals_its_closed_form():
    ema = ConstantEma(_line(3), decay=0.9)
    for step in range(1, 21):
        ema.update(_line(5), step)
    expected = 5 + (3 - 5) * 0.9**20
    assert float(ema.averages["ema"]["weight"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("std", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_equals_the_papers(std, gamma):
    """arXiv:2312.02696, section 3.1 names these two pairs."""
    assert gamma_of(std) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("std", [0.05, 0.1, 0.2])
def test_power_ema_has_the_stated_relative_width(std):
    """Averaging the step numbers themselves reads off the mean and spread of the profile."""
    steps = 4000
    mean, square = PowerEma(_line(0), [std], 1), PowerEma(_line(0), [std], 1)
    for step in range(1, steps + 1):
        mean.update(_line(step), step)
        square.update(_line(step**2), step)
    m, s = float(mean.averages["ema"]["weight"]), float(square.averages["ema"]["weight"])
    gamma = gamma_of(std)
    assert m / steps == pytest.approx((gamma + 1) / (gamma + 2), rel=2e-3)
    assert np.sqrt(s - m**2) / steps == pytest.approx(std, rel=1e-2)


def test_an_average_of_any_length_is_rebuilt_from_snapshots():
    """Weights that wander far from zero; snapshots of two lengths every 250 steps rebuild a third at the end."""
    generator = np.random.default_rng(0)
    path = 10_000 + np.cumsum(generator.normal(size=4000))
    stored = PowerEma(_line(0), [0.05, 0.10], 250)
    wanted = PowerEma(_line(0), [0.07], 250)
    snapshots, values = [], []
    for step in range(1, 4001):
        model = _line(0)
        nn.init.constant_(model.weight, path[step - 1])
        stored.update(model, step)
        wanted.update(model, step)
        if step % 250 == 0:
            for std, weights in zip(stored.stds, stored.averages.values(), strict=True):
                snapshots.append((step, std))
                values.append(float(weights["weight"]))
    rebuilt = posthoc_average(snapshots, 4000, 0.07).coefficients @ np.array(values)
    truth = float(wanted.averages["ema"]["weight"])
    nearest_stored = min(abs(values[-1] - truth), abs(values[-2] - truth))
    assert abs(rebuilt - truth) < 0.02 * nearest_stored


def test_averages_do_not_share_memory_with_the_model():
    model = _line(1)
    ema = ConstantEma(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(9)
    assert float(ema.averages["ema"]["weight"]) == 1
