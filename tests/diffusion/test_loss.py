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


@pytest.mark.parametrize("name", ["eps", "v", "x0", "flow"])
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
