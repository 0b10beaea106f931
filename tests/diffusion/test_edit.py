"""Editing against closed forms: identities, exact marginals, and a denoiser whose ODE is known."""

import math
from dataclasses import replace

import pytest
import torch

from discli.diffusion import build_schedule, count_evaluations, trajectory
from discli.diffusion.edit import Edit, steps_taken
from discli.diffusion.samplers import build_sampler
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.sample import SampleSpec
from tests.diffusion.gaussian import VARIANCE, diffusion_of, ideal_network, ode_end

BETAS = ["ddpm", "ddim", "euler", "heun", "dpm-solver++", "sde-dpm-solver++", "unipc"]
FLOW = ["euler", "heun", "euler-maruyama"]
EVERY = [(s, o) for o in ("eps", "v", "x0") for s in BETAS] + [(s, o) for o in ("flow", "x0-flow") for s in FLOW]
SEVERAL = ("dpm-solver++", "sde-dpm-solver++", "unipc")  # look back on several steps, and begin without
STOCHASTIC = ("ddpm", "sde-dpm-solver++", "euler-maruyama")
SHAPE = (4, 3, 2, 2)


def _normal(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _states(sampler, objective, x, edit=None, steps=10, **settings) -> list[torch.Tensor]:
    spec = SampleSpec.model_validate({"sampler": sampler, "steps": steps, **settings})
    network, diffusion = ideal_network(objective), diffusion_of(objective)
    return list(trajectory(network, diffusion, spec, x, None, lambda k: _normal(100 + k), edit=edit))


def _levels(sampler, objective, steps: int) -> list[tuple[float, float]]:
    """a and s of every time."""
    diffusion = diffusion_of(objective)
    spec = SampleSpec.model_validate({"sampler": sampler, "steps": steps})
    return [build_schedule(diffusion).at(t) for t in build_sampler(diffusion, spec).times]


@pytest.mark.parametrize(("sampler", "objective"), EVERY)
def test_strength_one_is_plain_sampling_and_zero_is_the_image(sampler, objective):
    x, image = _normal(1), _normal(2)
    *_, plain = _states(sampler, objective, x)
    assert torch.equal(_states(sampler, objective, x, Edit(image))[-1], plain)
    assert torch.equal(_states(sampler, objective, x, Edit(image, strength=0.0))[-1], image)


@pytest.mark.parametrize(("sampler", "objective"), [(s, o) for s, o in EVERY if s not in SEVERAL])
def test_part_of_the_steps_is_the_end_of_a_walk_that_came_by_there(sampler, objective):
    """Where a walk's own state at the middle is what the noisy image is, both end alike, step noise included."""
    x = _normal(1)
    states = _states(sampler, objective, x)
    image = (states[5] - _levels(sampler, objective, 10)[6][1] * x) / _levels(sampler, objective, 10)[6][0]
    edited = _states(sampler, objective, x, Edit(image, strength=0.4))
    assert len(edited) == 4
    torch.testing.assert_close(edited[-1], states[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sampler", "objective"), [(s, o) for s, o in EVERY if s not in STOCHASTIC])
def test_part_of_the_steps_follows_the_exact_ode(sampler, objective):
    """From a noisy image it scales by std(data) / std(x_t)."""
    x, image = _normal(1), _normal(2)
    a, s = _levels(sampler, objective, 200)[100]
    expected = (a * image + s * x) * math.sqrt(VARIANCE / (VARIANCE * a**2 + s**2))
    *_, end = _states(sampler, objective, x, Edit(image, strength=0.5), 200)
    torch.testing.assert_close(end, expected, rtol=6e-3, atol=1e-3)


def test_steps_are_a_share_and_at_least_one():
    assert [steps_taken(30, strength) for strength in (0.0, 0.01, 0.5, 0.6, 1.0)] == [0, 1, 15, 18, 30]
    edit = Edit(torch.zeros(1, 1, 1, 1), strength=0.6)
    spec = SampleSpec.model_validate({"sampler": "heun", "steps": 20, "cfg_scale": 2.0})
    assert count_evaluations(diffusion_of("v"), spec, 3, edit) == 46
    assert count_evaluations(diffusion_of("v"), spec, 3, replace(edit, invert=True)) == 46 + 24
    painted = replace(edit, drawn=torch.ones(1, 1, 1, 1, dtype=torch.bool), resamplings=3)
    # 11 steps three times over, twice guided and twice asked, and the last one once.
    assert count_evaluations(diffusion_of("v"), spec, 3, painted) == 11 * 3 * 4 + 2


DRAWN = torch.tensor([[True, False], [False, True]])[None, None]


@pytest.mark.parametrize("resamplings", [1, 3])
@pytest.mark.parametrize(("sampler", "objective"), EVERY)
def test_what_is_not_drawn_is_kept_exactly_and_the_rest_is_not(sampler, objective, resamplings):
    x, image = _normal(1), _normal(2)
    for strength in (1.0, 0.5):
        edit = Edit(image, strength=strength, drawn=DRAWN, resamplings=resamplings)
        *_, end = _states(sampler, objective, x, edit)
        kept = ~DRAWN.expand(SHAPE)
        torch.testing.assert_close(end[kept], image[kept], rtol=1e-6, atol=1e-6)
        assert (end - image)[~kept].abs().min() > 1e-6


@pytest.mark.parametrize(("sampler", "objective"), EVERY)
def test_with_everything_drawn_painting_is_sampling(sampler, objective):
    x, image = _normal(1), _normal(2)
    everything = Edit(image, drawn=torch.ones(1, 1, 2, 2, dtype=torch.bool))
    assert torch.equal(_states(sampler, objective, x, everything)[-1], _states(sampler, objective, x)[-1])


def _learns_its_variance(x, t, y=None):
    return torch.cat([ideal_network("eps")(x, t), torch.full_like(x, 1.0)], dim=1)


@pytest.mark.parametrize(
    ("sampler", "objective"), [("ddpm", "v"), ("ddpm", "eps"), ("ddim", "eps"), ("euler", "flow"), ("heun", "x0")]
)
@pytest.mark.parametrize("resamplings", [1, 3])
def test_what_is_kept_has_at_every_time_the_noise_of_that_time(sampler, objective, resamplings):
    """RePaint's eq. 8a: N(a x0, s^2), here with its mean and variance over 4,096 pixels."""
    generator = torch.Generator().manual_seed(0)

    def draw(k=None):
        return torch.randn(1, 1, 64, 64, dtype=torch.float64, generator=generator)

    steps, x0 = 50, torch.full((1, 1, 64, 64), 0.7, dtype=torch.float64)
    diffusion, network = diffusion_of(objective), ideal_network(objective)
    if (sampler, objective) == ("ddpm", "eps"):  # a learned variance that is wrong where all is known
        diffusion, network = DiffusionSpec(), _learns_its_variance
    spec = SampleSpec.model_validate({"sampler": sampler, "steps": steps})
    edit = Edit(x0, drawn=torch.zeros(1, 1, 1, 1, dtype=torch.bool), resamplings=resamplings)
    found = list(trajectory(network, diffusion, spec, draw(), None, draw, edit=edit))
    levels = _levels(sampler, objective, steps)
    if resamplings == 1:
        visited = list(range(1, steps + 1))
    else:
        visited = [end for begin in range(0, 48, 2) for end in (begin + 1, begin + 2) * 3] + [49] * 3 + [50]
    assert len(found) == len(visited)
    for state, at in zip(found, visited, strict=True):
        a, s = levels[at]
        # Four standard deviations of each.
        assert abs(float(state.mean()) - a * 0.7) <= 4 * s / 64 + 1e-9
        assert abs(float(state.std()) - s) <= 4 * s / 64 / 2**0.5 + 1e-9


def test_no_noise_is_drawn_twice():
    asked = []

    def noise(k):
        asked.append(k)
        return torch.zeros(1, 3, 2, 2)

    spec = SampleSpec.model_validate({"sampler": "ddpm", "steps": 100})
    edit = Edit(torch.zeros(1, 3, 2, 2), strength=0.8, drawn=DRAWN, resamplings=4)
    for _ in trajectory(ideal_network("v"), diffusion_of("v"), spec, noise(-1), None, noise, edit=edit):
        pass
    assert len(asked) == len(set(asked)) == 1 + 79 * 4 + 20 * 3
    assert max(asked) < 8 * 100


@pytest.mark.parametrize("objective", ["eps", "v", "x0", "flow", "x0-flow"])
def test_inversion_finds_the_noise_of_the_exact_ode_and_the_error_falls_with_the_steps(objective):
    image = _normal(2)
    sampler = "euler" if "flow" in objective else "ddim"

    def errors(steps: int, how: str = sampler) -> tuple[float, float]:
        states = _states(how, objective, torch.zeros(SHAPE).double(), Edit(image, invert=True), steps)
        assert len(states) == 2 * steps
        noise, back = states[steps - 1], states[-1]
        return float((ode_end(objective, noise) - image).abs().max()), float((back - image).abs().max())

    (noise_few, back_few), (noise_many, back_many) = errors(50), errors(400)
    assert 5 < noise_few / noise_many < 11, "of first order"
    assert back_many < back_few / 5
    assert back_many < 0.06


def test_an_image_is_inverted_as_the_class_it_shows_and_drawn_as_another():
    def network(x, t, y):
        return torch.tanh(x) * y.to(x)[:, None, None, None]

    spec = SampleSpec.model_validate({"sampler": "euler", "steps": 200})
    diffusion = DiffusionSpec.model_validate({"objective": "flow"})
    image, shown = _normal(2), torch.tensor([1, 1, 1, 1])

    def draw(as_: torch.Tensor) -> torch.Tensor:
        edit = Edit(image, invert=True, shown=shown)
        *_, end = trajectory(network, diffusion, spec, image, as_, lambda k: image, edit=edit)
        return end

    torch.testing.assert_close(draw(shown), image, rtol=0.02, atol=0.02)
    assert (draw(shown + 2) - image).abs().mean() > 0.2
