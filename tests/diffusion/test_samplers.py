"""Samplers against the authors' trajectories, against diffusers, and against exact solutions."""

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file

from discli.diffusion import build_schedule, count_evaluations, trajectory
from discli.diffusion.samplers import timestep_grid
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.sample import SampleSpec
from tests.diffusion.gaussian import VARIANCE, diffusion_of, ideal_network, ode_end, sde_variance, solve


def _toy_network(x, t, y=None):
    """The network that the golden trajectories were made with."""
    eps = 0.3 * x + (0.1 * t.to(x.dtype) / 1000)[:, None, None, None]
    return torch.cat([eps, torch.full_like(x, 0.2)], dim=1)


def _settings(sampler, steps, **more):
    return SampleSpec.model_validate({"sampler": sampler, "steps": steps, **more})


def _run(settings, x, noise, network=_toy_network, diffusion=None):
    return list(trajectory(network, diffusion or DiffusionSpec(), settings, x, None, lambda k: noise[k].to(x.dtype)))


@pytest.mark.parametrize(
    "run",
    ["ddpm_250", "ddpm_50", "ddpm_10", "ddpm_50_clip", "ddim_250", "ddim_50", "ddim_10", "ddim_50_eta1"],
)
def test_trajectories_equal_the_authors(shared, run):
    golden = load_file(shared / "golden" / "diff_sample.f64.safetensors")
    noise = load_file(shared / "golden" / "diff_sample.f32.safetensors")["noise"]
    kind, steps = run.split("_")[:2]
    sampler = {"name": "ddim", "eta": float(run.endswith("eta1"))} if kind == "ddim" else kind
    settings = _settings(sampler, int(steps), clip_denoised=run.endswith("clip"))

    assert timestep_grid(build_schedule(DiffusionSpec()), int(steps))[:-1] == golden[f"timesteps.{run}"].tolist()
    states = _run(settings, golden["x_T"].double(), noise)
    for index, expected in zip(golden[f"traj_index.{run}"], golden[f"traj.{run}"], strict=True):
        assert float((states[index] - expected).abs().max() / expected.abs().max()) < 1e-9


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_ancestral_sampling_equals_diffusers(learn_sigma):
    scheduler = DDPMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        timestep_spacing="linspace",
        variance_type="learned_range" if learn_sigma else "fixed_small",
        clip_sample=False,
    )
    scheduler.set_timesteps(20)
    # Its float32 table would be the larger error.
    scheduler.alphas_cumprod = build_schedule(DiffusionSpec()).alphas_cumprod
    start = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network = _toy_network if learn_sigma else lambda x, t, y=None: _toy_network(x, t)[:, :3]

    theirs, generator = start, torch.Generator().manual_seed(7)
    for t in scheduler.timesteps:
        out = network(theirs, t.expand(2))
        theirs = scheduler.step(out, t, theirs, generator=generator).prev_sample

    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=generator) for _ in range(19)]
    diffusion = DiffusionSpec.model_validate({"objective": {"learn_sigma": learn_sigma}})
    ours = _run(_settings("ddpm", 20), start, noise, network, diffusion)[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        ("dpm-solver++", DPMSolverMultistepScheduler(algorithm_type="dpmsolver++")),
        ("sde-dpm-solver++", DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")),
        ("unipc", UniPCMultistepScheduler()),
    ],
)
def test_multistep_solvers_equal_diffusers_given_the_networks_own_noise_prediction(sampler, scheduler):
    start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(20, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    scheduler.set_timesteps(20)
    theirs = start
    for k, t in enumerate(scheduler.timesteps):
        extra = {"variance_noise": noise[k] * (k < 19)} if sampler.startswith("sde") else {}
        theirs = scheduler.step(_toy_network(theirs, t.expand(2))[:, :3], t, theirs, **extra).prev_sample
    ours = _run(_settings(sampler, 20), start, noise)[-1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(("sampler", "scheduler"), [("euler", EulerDiscreteScheduler), ("heun", HeunDiscreteScheduler)])
def test_single_step_solvers_equal_diffusers_on_the_same_times(sampler, scheduler):
    """28 steps: 999 / 27 is whole, so that diffusers' times are not between two timesteps."""
    start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    theirs_at = scheduler(beta_start=1e-4, beta_end=0.02, timestep_spacing="linspace")
    theirs_at.set_timesteps(28)
    schedule = build_schedule(DiffusionSpec())
    theirs = start / schedule.at(999)[0]  # x / a, as k-diffusion counts
    for t in theirs_at.timesteps:
        scaled = theirs_at.scale_model_input(theirs, t)
        theirs = theirs_at.step(_toy_network(scaled, t.expand(2))[:, :3], t, theirs).prev_sample
    ours = _run(_settings(sampler, 28), start, [])[-1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize("objective", ["eps", "v", "x0"])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "dpm-solver++", "unipc"])
def test_solvers_reach_the_end_of_the_exact_ode(sampler, objective):
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    end = solve(sampler, objective, 400, x)
    torch.testing.assert_close(end, ode_end(objective, x), rtol=6e-3, atol=0)


@pytest.mark.parametrize(
    ("sampler", "objective", "order"),
    [
        ("ddim", "v", 1),
        ("euler", "v", 1),
        ("euler", "flow", 1),
        ("heun", "v", 2),
        ("heun", "flow", 2),
        ("dpm-solver++", "v", 2),
        ("unipc", "v", 2),
    ],
)
def test_order_of_convergence(sampler, objective, order):
    """Eight times the steps: a first-order error falls to about 1/8, a second-order one to about 1/64."""
    x = torch.ones(1, 3, 1, 1, dtype=torch.float64)
    few, many = (float((solve(sampler, objective, n, x) - ode_end(objective, x)).abs().max()) for n in (20, 160))
    assert (6 < few / many < 10) if order == 1 else few / many > 25


@pytest.mark.parametrize(
    ("sampler", "objective", "error_at_80"),
    [("ddpm", "v", 0.35), ("sde-dpm-solver++", "v", 0.05), ("euler-maruyama", "flow", 0.15)],
)
def test_stochastic_solvers_reach_the_variance_of_the_data(sampler, objective, error_at_80):
    few, many = (abs(sde_variance(sampler, objective, n) - VARIANCE) for n in (20, 80))
    assert many < error_at_80
    assert many < few / 2


def test_euler_maruyama_without_noise_is_euler():
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    quiet = solve({"name": "euler-maruyama", "noise_scale": 0.0}, "flow", 7, x)
    torch.testing.assert_close(quiet, solve("euler", "flow", 7, x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "euler", "heun", "dpm-solver++", "sde-dpm-solver++", "unipc"])
def test_one_step_starts_from_pure_noise_and_ends_at_the_predicted_x0(sampler):
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    end = solve(sampler, "x0", 1, x)
    expected = ideal_network("x0")(x, torch.tensor([999]))
    torch.testing.assert_close(end, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (_settings("ddpm", 250), 250),
        (_settings("heun", 20), 39),
        (_settings("dpm-solver++", 20), 20),
        (_settings("unipc", 20, cfg_scale=2.0), 40),
        (_settings("heun", 20, cfg_scale=2.0), 78),
        (_settings("ddim", 20, cfg_scale=2.0, guidance={"name": "autoguidance", "checkpoint": "weak"}), 40),
    ],
)
def test_evaluations_are_counted(settings, expected):
    assert count_evaluations(diffusion_of("v"), settings, 3) == expected


def test_every_sampler_takes_as_many_steps_as_it_was_asked_for():
    x = torch.randn(1, 3, 2, 2)
    for sampler in ("dpm-solver++", "sde-dpm-solver++", "unipc"):
        settings = _settings(sampler, 1000)  # more than their table of distinct times
        end = list(trajectory(ideal_network("v"), diffusion_of("v"), settings, x, None, lambda k: torch.zeros_like(x)))
        assert torch.isfinite(end[-1]).all()
