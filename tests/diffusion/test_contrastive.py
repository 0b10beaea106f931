"""Contrastive flow matching against its authors' formula, its optimum, and its undoing under guidance."""

import pytest
import torch

from discli.diffusion import DiffusionLoss, build_schedule, count_evaluations, trajectory
from discli.diffusion.contrastive import classes_of_mean, corrected, mean_velocity
from discli.recipe.choices import build
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.sample import SampleSpec

OBJECTIVES = ["flow", {"name": "x0-flow", "clamp": 1e-6}]
WEIGHT, VARIANCE, NULL = 0.2, 4.0, 9
MEANS = torch.tensor([1.5, -0.5, 2.0], dtype=torch.float64)  # of three classes, alike often


def _spec(objective, weight=WEIGHT) -> DiffusionSpec:
    return DiffusionSpec.model_validate({"objective": objective, "contrastive": weight})


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_is_the_authors(objective):
    """arXiv:2506.05350, eq. 5: |v_hat - v|^2 - weight |v_hat - v_j|^2, and mse is what it was."""
    loss = DiffusionLoss(_spec(objective))
    x0, noise, out = torch.randn(3, 6, 3, 4, 4, dtype=torch.float64).unbind()
    t = loss.timesteps(torch.linspace(0.05, 0.95, 6).double())
    x_t, _ = loss.noisy(x0, t, noise)
    v, v_hat = noise - x0, loss.objective.velocity(x_t, out, *loss.schedule.coefficients(t, x0))
    v_j = v.roll(-1, 0)
    found = loss(out, x0, x_t, t, noise, v_j)
    pull, push = (((v_hat - one) ** 2).flatten(1).mean(1) for one in (v, v_j))
    torch.testing.assert_close(found.loss, pull - WEIGHT * push)
    torch.testing.assert_close(found.mse, pull)
    torch.testing.assert_close(loss(out, x0, x_t, t, noise).loss, pull)


def _expected(x, s, a, mean, variance):
    """E[v | x_t] of data N(mean, variance)."""
    total = variance * a**2 + s**2
    x0 = mean + variance * a * (x - a * mean) / total
    return (x - a * x0) / s - x0


def _network(objective, weight):
    """The best for the loss with ``weight``: classes are Gaussians; without one, a Gaussian of their mean instead."""
    schedule, reader = build_schedule(_spec(objective)), build(_spec(objective).objective)

    def network(x, t, y):
        a, s = schedule.at(float(t[0]) / 1000)
        mean = torch.where(y == NULL, MEANS.mean(), MEANS[y % 3])[:, None, None, None]
        v = (_expected(x, s, a, mean, VARIANCE) + weight * MEANS.mean()) / (1 - weight)
        return v if reader.spec.model_fields["name"].default == "flow" else x - s * v

    return network


def test_no_other_constant_has_less_loss_than_the_closed_form():
    """At t = 1 x_t is noise alone, and the best velocity less the noise is a constant."""
    loss = DiffusionLoss(_spec("flow"))
    x0 = 1.5 + 2 * torch.randn(20_000, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v = -x0  # of noise 0, on average
    other, t, zero = v.roll(-1, 0), torch.ones(len(x0), dtype=torch.float64), torch.zeros_like(x0)
    best = (v.mean() - WEIGHT * v.mean()) / (1 - WEIGHT)

    def at(value):
        return float(loss(torch.full_like(x0, value), x0, zero, t, zero, other).loss.mean())

    assert at(best) < min(at(best + 0.05), at(best - 0.05))
    assert float(best) == pytest.approx(-1.5, abs=0.05)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_network_itself_knows_the_mean_velocity(objective):
    schedule, reader = build_schedule(_spec(objective)), build(_spec(objective).objective)
    like = torch.zeros(8, 2, 3, 3, dtype=torch.float64)
    null = torch.full((16,), NULL)
    found = mean_velocity(_network(objective, WEIGHT), reader, schedule, WEIGHT, like, null)
    torch.testing.assert_close(found, torch.full((1, 2, 3, 3), -float(MEANS.mean()), dtype=torch.float64))
    torch.testing.assert_close(corrected((found - WEIGHT * found) / (1 - WEIGHT), found, WEIGHT), found)


def test_a_network_that_never_trained_without_a_class_is_asked_for_classes():
    def found(classes, null_is_trained=False):
        return classes_of_mean(classes, null_is_trained, torch.device("cpu")).tolist()

    assert found(3) == [0] * 5 + [1] * 5 + [2] * 5
    assert found(100)[:3] == [0, 6, 12]
    assert (len(found(100)), found(100)[-1]) == (16, 93)
    assert set(found(3, null_is_trained=True)) == {3}


@pytest.mark.parametrize("images", [1, 3, 16, 21])
def test_the_mean_velocity_does_not_depend_on_how_many_are_sampled_at_once(images):
    """Of a network that hears the noise, as one that has not converged does."""
    sizes = set()

    def network(x, t, y):
        sizes.add(len(x))
        return x + x.flatten(1).mean(1)[:, None, None, None] ** 2

    def found(count):
        like = torch.zeros(count, 2, 3, 3, dtype=torch.float64)
        spec = _spec("flow")
        return mean_velocity(network, build(spec.objective), build_schedule(spec), WEIGHT, like, None)

    together = found(16)
    sizes.clear()
    torch.testing.assert_close(found(images), together)
    assert sizes == {images}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", ["euler", "heun", "euler-maruyama"])
def test_guided_it_samples_what_a_network_trained_without_it_does(sampler, objective):
    x = torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 1, 2])

    def run(weight, **settings):
        wanted = SampleSpec.model_validate({"sampler": sampler, "steps": 12, "cfg_scale": 2.5, **settings})
        spec = _spec(objective, weight)
        *_, end = trajectory(_network(objective, weight), spec, wanted, x, y, lambda k: x.flip(0), NULL)
        return end

    plain = run(0.0)
    torch.testing.assert_close(run(WEIGHT), plain, rtol=1e-5, atol=1e-5)
    assert (run(WEIGHT, contrastive_correction=False) - plain).abs().max() > 0.1
    # Without guidance the paper leaves it as it is: away from the mean.
    assert (run(WEIGHT, cfg_scale=1.0) - run(0.0, cfg_scale=1.0)).abs().max() > 0.05


WEAK = {"guidance": {"name": "autoguidance", "checkpoint": "weak"}}


def test_autoguided_without_a_null_class_it_samples_what_a_network_trained_without_it_does():
    """Whose answer to the null class, which it never saw, must not matter."""
    x = torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = SampleSpec.model_validate({"sampler": "euler", "steps": 12, "cfg_scale": 2.5, **WEAK})

    def run(weight):
        def network(x, t, y):
            return torch.where((y == 3)[:, None, None, None], 1e3, _network("flow", weight)(x, t, y))

        settings = _spec("flow", weight), wanted, x, torch.tensor([0, 1, 2]), lambda k: x
        *_, end = trajectory(network, *settings, 3, guide=network, null_is_trained=False)
        return end

    torch.testing.assert_close(run(WEIGHT), run(0.0), rtol=1e-5, atol=1e-5)


def test_its_call_of_the_network_is_counted_where_there_is_guidance():
    settings = {"sampler": "euler", "steps": 10}
    guided = SampleSpec.model_validate(settings | {"cfg_scale": 2.0})
    assert count_evaluations(_spec("flow"), guided, 3) == 21
    assert count_evaluations(_spec("flow"), guided.model_copy(update={"contrastive_correction": False}), 3) == 20
    assert count_evaluations(_spec("flow"), SampleSpec.model_validate(settings), 3) == 10


@pytest.mark.parametrize(("objective", "weight"), [("v", 0.05), ("flow", 1.0), ("flow", -0.1)])
def test_what_has_no_velocity_or_no_minimum_is_refused(objective, weight):
    with pytest.raises(ValueError, match="contrastive"):
        _spec(objective, weight)
