"""Data N(0, 4), for which the ideal network, the ODE's end and the SDE's variance are known."""

import math

import torch

from discli.diffusion import build_schedule, trajectory
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.sample import SampleSpec

VARIANCE = 4.0
FLOWS = ("flow", "x0-flow")


def diffusion_of(objective: str) -> DiffusionSpec:
    # Without its clamp, at which JiT's samplers leave the exact ODE.
    plain = {"eps": {"learn_sigma": False}, "x0-flow": {"clamp": 1e-6}}.get(objective, {})
    return DiffusionSpec.model_validate({"objective": {"name": objective, **plain}})


def ideal_network(objective: str):
    schedule = build_schedule(diffusion_of(objective))

    def network(x, t, y=None):
        t = float(t[0]) / (schedule.num_timesteps if objective in FLOWS else 1)
        a, s = schedule.at(t)
        total = VARIANCE * a**2 + s**2
        x0, eps = VARIANCE * a * x / total, s * x / total
        return {"eps": eps, "x0": x0, "v": a * eps - s * x0, "flow": eps - x0, "x0-flow": x0}[objective]

    return network


def solve(sampler, objective: str, steps: int, x, noise=None):
    """Where the sampler takes ``x``."""
    settings = SampleSpec.model_validate({"sampler": sampler, "steps": steps})
    noise = noise or (lambda k: torch.zeros_like(x))
    *_, end = trajectory(ideal_network(objective), diffusion_of(objective), settings, x, None, noise)
    return end


def ode_end(objective: str, x):
    """The probability-flow ODE scales x by std(data) / std(x_T)."""
    if objective in FLOWS:
        return math.sqrt(VARIANCE) * x
    a, s = build_schedule(diffusion_of(objective)).at(999)
    return x * math.sqrt(VARIANCE / (VARIANCE * a**2 + s**2))


def sde_variance(sampler, objective: str, steps: int) -> float:
    """Of the samples, exactly: the solver is linear, so row j carries step j's noise alone and row ``steps`` x_T."""
    unit = torch.eye(steps + 1, dtype=torch.float64)[:, :, None, None, None].expand(-1, -1, 3, 1, 1)
    ends = solve(sampler, objective, steps, unit[steps], lambda k: unit[k])
    return float((ends[:, 0] ** 2).sum())
