"""The loss against the authors' numbers, and every objective against its closed form."""

import math

import pytest
import torch
from safetensors.torch import load_file

from discli.diffusion import DiffusionLoss
from discli.recipe.diffusion import DiffusionSpec


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_hybrid_loss_and_its_gradient_equal_the_authors(shared, dtype, tolerance):
    name = {torch.float64: "f64", torch.float32: "f32"}[dtype]
    golden = load_file(shared / "golden" / f"diff_train.{name}.safetensors")
    x0, noise, t = golden["x0"].to(dtype), golden["noise"].to(dtype), golden["t"]
    out = golden["model_out"].to(dtype).requires_grad_()
    loss = DiffusionLoss(DiffusionSpec())

    x_t, t_model = loss.noisy(x0, t, noise)
    losses = loss(out, x0, x_t, t, noise)
    losses.loss.mean().backward()

    assert torch.equal(t_model, t)
    torch.testing.assert_close(x_t, golden["x_t"], rtol=tolerance, atol=tolerance)
    for ours, theirs in ((losses.mse, "mse"), (losses.vb, "vb"), (losses.loss, "loss")):
        torch.testing.assert_close(ours, golden[theirs], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(out.grad, golden["grad_model_out_of_mean_loss"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["eps", "v", "x0", "flow", "x0-flow"])
def test_a_perfect_prediction_has_no_error_and_reads_back_exactly(name):
    loss = DiffusionLoss(_spec(objective={"name": name, **({"learn_sigma": False} if name == "eps" else {})}))
    x0, noise = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64).unbind()
    t = loss.timesteps(torch.linspace(0.05, 0.95, 6))
    x_t, _ = loss.noisy(x0, t, noise)
    a, s = loss.schedule.coefficients(t, x0)
    target = loss.objective.target(x0, noise, a, s)

    assert loss(target, x0, x_t, t, noise).loss.abs().max() == 0
    x0_read, noise_read = loss.objective.read(x_t, target, a, s)
    torch.testing.assert_close(x0_read, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(noise_read, noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["eps", "v", "x0"])
def test_min_snr_weights_the_error_of_x0_by_the_clipped_snr(name):
    """arXiv:2303.09556: whatever is predicted, the loss is min(SNR, gamma) |x0 - x0_hat|^2."""
    objective = {"name": name, **({"learn_sigma": False} if name == "eps" else {})}
    loss = DiffusionLoss(_spec(objective=objective, weighting={"name": "min-snr", "gamma": 5.0}))
    x0, noise, prediction = torch.randn(3, 5, 3, 4, 4, dtype=torch.float64).unbind()
    t = torch.tensor([0, 30, 200, 600, 999])
    x_t, _ = loss.noisy(x0, t, noise)
    a, s = loss.schedule.coefficients(t, x0)
    x0_hat, _ = loss.objective.read(x_t, prediction, a, s)
    snr = (a / s).flatten() ** 2
    expected = snr.clamp(max=5.0) * ((x0 - x0_hat) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(loss(prediction, x0, x_t, t, noise).loss, expected)


@pytest.mark.parametrize("clamp", [0.05, 0.5])
def test_x0_on_the_straight_path_has_the_error_of_the_velocity(clamp):
    """JiT, in its own direction of time (arXiv:2511.13720): z = t x + (1 - t) e, |v - v_hat|^2."""
    loss = DiffusionLoss(_spec(objective={"name": "x0-flow", "clamp": clamp}))
    x, e, x_pred = torch.randn(3, 6, 3, 4, 4, dtype=torch.float64).unbind()
    t = torch.tensor([0.0, 0.3, 0.7, 0.94, 0.96, 1.0], dtype=torch.float64)
    jit = t[:, None, None, None]
    z = jit * x + (1 - jit) * e
    v, v_pred = ((one - z) / (1 - jit).clamp(min=clamp) for one in (x, x_pred))

    x_t, t_model = loss.noisy(x, 1 - t, e)
    torch.testing.assert_close(x_t, z)
    torch.testing.assert_close(t_model, 1000 * (1 - t))
    torch.testing.assert_close(loss(x_pred, x, x_t, 1 - t, e).mse, ((v - v_pred) ** 2).flatten(1).mean(1))
    # It is flow's own loss above the clamp, for the velocity that x_pred amounts to.
    flow = DiffusionLoss(_spec(objective="flow"))
    velocity = loss.objective.velocity(x_t, x_pred, *loss.schedule.coefficients(1 - t, x))
    above = 1 - t > clamp
    theirs = flow(velocity, x, x_t, 1 - t, e).mse
    torch.testing.assert_close(theirs[above], loss(x_pred, x, x_t, 1 - t, e).mse[above])


@pytest.mark.parametrize("objective", ["flow", "x0-flow"])
def test_shifted_times_are_those_of_sd3(objective):
    """arXiv:2403.03206, eq. 23, of m = 4 n pixels: t_m = 2 t_n / (1 + t_n); the noise level s / a is doubled."""
    draws = (torch.arange(1000) + 0.5) / 1000
    for timesteps in ("uniform", "logit-normal"):
        plain, shifted = (
            DiffusionLoss(_spec(objective=objective, timesteps=timesteps, time_shift=shift)) for shift in (1.0, 2.0)
        )
        t_n, t_m = plain.timesteps(draws), shifted.timesteps(draws)
        torch.testing.assert_close(t_m, 2 * t_n / (1 + t_n))
        torch.testing.assert_close(t_m / (1 - t_m), 2 * t_n / (1 - t_n), rtol=1e-3, atol=0)
        assert t_m.dtype == torch.float32
        assert float(t_m.max()) < 1


def test_uniform_timesteps_are_uniform_and_cover_both_ends():
    loss = DiffusionLoss(DiffusionSpec())
    t = loss.timesteps((torch.arange(100_000) + 0.5) / 100_000)
    assert t.min() == 0
    assert t.max() == 999
    assert torch.bincount(t).unique().tolist() == [100]


def test_logit_normal_timesteps_have_the_stated_density():
    """P(t < T/2) = Phi(-mean / std) and the quartiles are those of sigmoid(normal)."""
    loss = DiffusionLoss(_spec(objective="flow", timesteps={"name": "logit-normal", "mean": 0.5, "std": 0.8}))
    t = loss.timesteps((torch.arange(100_000) + 0.5) / 100_000)
    below_half = 0.5 * (1 + math.erf(-0.5 / 0.8 / math.sqrt(2)))
    assert float((t < 0.5).double().mean()) == pytest.approx(below_half, abs=1e-4)
    upper_quartile = 1 / (1 + math.exp(-(0.5 + 0.8 * 0.6744897501960817)))
    assert float(t.double().quantile(0.75)) == pytest.approx(upper_quartile, abs=1e-4)
    assert torch.isfinite(loss.timesteps(torch.tensor([0.0, 1 - 2.0**-24]))).all()


def _spec(**settings) -> DiffusionSpec:
    return DiffusionSpec.model_validate(settings)
