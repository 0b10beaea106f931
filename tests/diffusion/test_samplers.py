"""Samplers against the authors' trajectories, against diffusers, and against exact solutions."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file

from discli.diffusion import build_schedule, count_evaluations, trajectory
from discli.diffusion.samplers import build_sampler, timestep_grid
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.sample import SampleSpec, spaced_timesteps
from discli.runtime.errors import DiscliError
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

    assert timestep_grid(build_schedule(DiffusionSpec()), settings)[:-1] == golden[f"timesteps.{run}"].tolist()
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
        ("euler", "x0-flow", 1),
        ("heun", "x0-flow", 2),
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
    [
        ("ddpm", "v", 0.35),
        ("sde-dpm-solver++", "v", 0.05),
        ("euler-maruyama", "flow", 0.15),
        ("euler-maruyama", "x0-flow", 0.15),
    ],
)
def test_stochastic_solvers_reach_the_variance_of_the_data(sampler, objective, error_at_80):
    few, many = (abs(sde_variance(sampler, objective, n) - VARIANCE) for n in (20, 80))
    assert many < error_at_80
    assert many < few / 2


def test_euler_maruyama_without_noise_is_euler():
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    quiet = solve({"name": "euler-maruyama", "noise_scale": 0.0}, "flow", 7, x)
    torch.testing.assert_close(quiet, solve("euler", "flow", 7, x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("heun", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_x0_on_the_straight_path_is_sampled_as_jit_samples(heun, scale):
    """Its loop, in its direction of time, with its clamp; 50 steps, so that the last two begin below the clamp."""

    def network(x, t, y):
        t = t[:, None, None, None] / 1000
        return torch.tanh(x * (1 + t)) * (0.3 + 0.1 * y.to(x)[:, None, None, None])

    def velocity(z, t):
        y, t_model = torch.tensor([1, 2]), torch.full((2,), 1000 * (1 - t), dtype=torch.float32)
        cond, uncond = ((network(z, t_model, c) - z) / max(1 - t, 0.05) for c in (y, torch.full_like(y, 5)))
        return uncond + scale * (cond - uncond)

    z = start = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for k in range(50):
        t, t_next = k / 50, (k + 1) / 50
        v = velocity(z, t)
        if heun and k < 49:
            v = (v + velocity(z + (t_next - t) * v, t_next)) / 2
        z = z + (t_next - t) * v

    settings = _settings("heun" if heun else "euler", 50, cfg_scale=scale)
    diffusion = DiffusionSpec.model_validate({"objective": "x0-flow"})
    *_, ours = trajectory(network, diffusion, settings, start, torch.tensor([1, 2]), lambda k: start, 5)
    torch.testing.assert_close(ours, z, rtol=1e-5, atol=1e-5)  # the network's time is float32


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_spaced_times_are_those_of_diffusers(spacing):
    for total, steps in ((1000, 10), (1000, 50), (1000, 96), (1000, 250), (1000, 333), (997, 48), (100, 100)):
        theirs = DDIMScheduler(num_train_timesteps=total, timestep_spacing=spacing)
        theirs.set_timesteps(steps)
        schedule = build_schedule(DiffusionSpec(num_timesteps=total))
        ours = timestep_grid(schedule, _settings("ddim", steps, timestep_spacing=spacing))
        assert ours == [*theirs.timesteps.tolist(), -1]


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("sampler", ["dpm-solver++", "sde-dpm-solver++", "unipc"])
def test_multistep_solvers_take_diffusers_own_times(sampler, spacing):
    scheduler = UniPCMultistepScheduler if sampler == "unipc" else DPMSolverMultistepScheduler
    theirs = scheduler(timestep_spacing=spacing)
    theirs.set_timesteps(30)
    diffusion = DiffusionSpec()
    sampler = build_sampler(diffusion, _settings(sampler, 30, timestep_spacing=spacing))
    assert sampler.times == [*theirs.timesteps.tolist(), -1]


def test_trailing_times_that_diffusers_gets_wrong_are_refused():
    """61 in 1,000 are 62 there, the last of them -1; DDIM's own are of 61."""
    with pytest.raises(DiscliError):
        build_sampler(DiffusionSpec(), _settings("dpm-solver++", 61, timestep_spacing="trailing"))
    assert len(build_sampler(DiffusionSpec(), _settings("ddim", 61, timestep_spacing="trailing")).times) == 62


def _space_timesteps(total, count):
    """OpenAI's "ddimN", as its formula says: the first whole stride with exactly N timesteps."""
    for stride in range(1, total):
        if len(range(0, total, stride)) == count:
            return set(range(0, total, stride))
    return None


def test_ddim_spacing_is_openais():
    for total in (1000, 4000, 97):
        for steps in (10, 25, 50, 97):
            theirs = _space_timesteps(total, steps)
            if theirs is None:
                with pytest.raises(ValueError, match="use"):
                    spaced_timesteps("ddim", total, steps)
            else:
                assert spaced_timesteps("ddim", total, steps) == sorted(theirs, reverse=True)


def test_leading_ddim_equals_diffusers_step_by_step():
    """Where T // n is whole its step to t - T // n is the step to the next time."""
    start = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for spacing in ("leading", "trailing"):
        scheduler = DDIMScheduler(beta_end=0.02, beta_start=1e-4, timestep_spacing=spacing, clip_sample=False)
        scheduler.set_timesteps(20)
        scheduler.alphas_cumprod = build_schedule(DiffusionSpec()).alphas_cumprod
        theirs = start
        for t in scheduler.timesteps:
            theirs = scheduler.step(_toy_network(theirs, t.expand(2))[:, :3], t, theirs).prev_sample
        ours = _run(_settings("ddim", 20, timestep_spacing=spacing), start, [])[-1]
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_grid_of_flow_is_shifted_as_in_training_or_as_asked():
    schedule = build_schedule(DiffusionSpec.model_validate({"objective": "x0-flow", "time_shift": 3.0}))
    even = [1 - k / 10 for k in range(11)]
    assert timestep_grid(schedule, _settings("euler", 10)) == pytest.approx([3 * t / (1 + 2 * t) for t in even])
    assert timestep_grid(schedule, _settings("euler", 10, time_shift=1.0)) == pytest.approx(even)
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)  # its even times end at 1 / 1000, and then comes 0
    theirs.set_timesteps(sigmas=even[:-1])
    assert timestep_grid(schedule, _settings("euler", 10)) == pytest.approx(theirs.sigmas.tolist(), abs=1e-6)


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
