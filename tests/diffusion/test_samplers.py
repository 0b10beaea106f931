"""Samplers against the authors' trajectories, against diffusers, and against exact solutions."""

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

from discli.diffusion import build_sampler, build_schedule, guided, trajectory
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.sample import DdimSampler, DdpmSampler, EulerFlowSampler


def _toy_network(x, t, y=None):
    """The network that the golden trajectories were made with."""
    eps = 0.3 * x + (0.1 * t.to(x.dtype) / 1000)[:, None, None, None]
    return torch.cat([eps, torch.full_like(x, 0.2)], dim=1)


def _run(sampler, x, noise, network=_toy_network, diffusion=None):
    schedule = build_schedule(diffusion or DiffusionSpec())
    return list(trajectory(network, sampler, schedule, x, None, lambda k: noise[k].to(x.dtype)))


@pytest.mark.parametrize(
    "run",
    ["ddpm_250", "ddpm_50", "ddpm_10", "ddpm_50_clip", "ddim_250", "ddim_50", "ddim_10", "ddim_50_eta1"],
)
def test_trajectories_equal_the_authors(shared, run):
    golden = load_file(shared / "golden" / "diff_sample.f64.safetensors")
    noise = load_file(shared / "golden" / "diff_sample.f32.safetensors")["noise"]
    kind, steps = run.split("_")[:2]
    choice = DdpmSampler() if kind == "ddpm" else DdimSampler(eta=1.0 if run.endswith("eta1") else 0.0)
    sampler = build_sampler(choice, DiffusionSpec(), int(steps), clip_denoised=run.endswith("clip"))

    assert sampler.times[:-1].tolist() == golden[f"timesteps.{run}"].tolist()
    states = _run(sampler, golden["x_T"].double(), noise)
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
    ours = _run(build_sampler(DdpmSampler(), diffusion, 20, False), start, noise, network, diffusion)[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", ["eps", "v", "x0"])
def test_ddim_follows_the_exact_ode_of_gaussian_data(objective):
    """For data N(0, 4) the ideal network is linear and its ODE maps x_T to x_T * 2 / std(x_T)."""
    diffusion = DiffusionSpec.model_validate(
        {"objective": {"name": objective, **({"learn_sigma": False} if objective == "eps" else {})}}
    )
    schedule = build_schedule(diffusion)

    def ideal(x, t, y):
        a, s = schedule.coefficients(t, x)
        variance = 4 * a**2 + s**2
        x0, eps = 4 * a * x / variance, s * x / variance
        return {"eps": eps, "x0": x0, "v": a * eps - s * x0}[objective]

    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    end = _run(build_sampler(DdimSampler(), diffusion, 1000, False), x, [], ideal, diffusion)[-1]
    a, s = schedule.coefficients(torch.tensor([999]), x)
    torch.testing.assert_close(end, 2 * x / (4 * a**2 + s**2).sqrt(), rtol=5e-3, atol=5e-3)


def test_euler_follows_the_straight_path_of_gaussian_data():
    diffusion = DiffusionSpec.model_validate({"objective": "flow"})

    def ideal(x, t_model, y):
        t = (t_model / 1000)[:, None, None, None]
        variance = 4 * (1 - t) ** 2 + t**2
        return (t - 4 * (1 - t)) * x / variance

    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    sampler = build_sampler(EulerFlowSampler(), diffusion, 2000, False)
    end = _run(sampler, x, [], ideal, diffusion)[-1]
    torch.testing.assert_close(end, 2 * x, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("choice", [DdpmSampler(), DdimSampler()])
def test_one_step_starts_from_pure_noise(choice):
    assert build_sampler(choice, DiffusionSpec(), 1, False).times.tolist() == [999, -1]


@pytest.mark.parametrize(("channels", "guided_count"), [("all", 4), ("first-three", 3)])
def test_guidance_moves_the_prediction_and_leaves_the_variance(channels, guided_count):
    def network(x, t, y):
        return torch.cat([x, x], dim=1) * y.double()[:, None, None, None]

    x, t, y = torch.ones(2, 4, 1, 1, dtype=torch.float64), torch.zeros(2), torch.tensor([1, 2])
    out = guided(network, null_class=5, cfg_scale=3.0, channels=channels)(x, t, y)
    expected = torch.tensor([[5 + 3 * (1 - 5)], [5 + 3 * (2 - 5)]], dtype=torch.float64)
    assert torch.equal(out[:, :guided_count, 0, 0], expected.expand(2, guided_count))
    assert torch.equal(out[:, guided_count:, 0, 0], y.double()[:, None].expand(2, 8 - guided_count))
