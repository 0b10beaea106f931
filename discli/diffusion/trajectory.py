"""A recipe's way from noise to samples: schedule, objective, guidance and sampler put together."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from discli.diffusion.contrastive import NOISES, classes_of_mean, corrected, mean_velocity
from discli.diffusion.edit import Edit, edited
from discli.diffusion.guidance import Network, guided, scale_at
from discli.diffusion.objectives import Objective
from discli.diffusion.samplers import Noise, Predict, Sampler, predictor
from discli.diffusion.schedule import build_schedule
from discli.recipe.choices import build
from discli.recipe.diffusion import DiffusionSpec
from discli.recipe.sample import SampleSpec


@torch.no_grad()
def trajectory(
    network: Network,
    diffusion: DiffusionSpec,
    settings: SampleSpec,
    x: Tensor,
    y: Tensor | None,
    noise: Noise,
    null_class: int = 0,
    guide: Network | None = None,
    null_is_trained: bool = True,
    edit: Edit | None = None,
) -> Iterator[Tensor]:
    """Yields x (B, C, H, W) after every step, starting from pure noise ``x``; the last one is the sample.

    ``noise(k)`` is step k's, (B, C, H, W). ``guide`` is autoguidance's other network. ``null_class`` is the number of
    classes too; False for ``null_is_trained`` where training left no class out. ``edit``: given images to begin from.
    """
    schedule = build_schedule(diffusion)
    objective: Objective = build(diffusion.objective)
    sampler: Sampler = build(settings.sampler, schedule, settings)
    network_guided = guided(network, settings, schedule, null_class, guide)
    correct = None
    if diffusion.contrastive and settings.contrastive_correction and settings.cfg_scale != 1.0:
        weight, scale = diffusion.contrastive, scale_at(settings, schedule)
        classes = None if y is None else classes_of_mean(null_class, null_is_trained, x.device)
        mean = mean_velocity(network, objective, schedule, weight, x, classes)

        def correct(velocity: Tensor, t: float) -> Tensor:
            return velocity if scale(t) == 1.0 else corrected(velocity, mean, weight)

    def predict_as(classes: Tensor | None) -> Predict:
        return predictor(network_guided, schedule, objective, classes, settings.clip_denoised, correct)

    if edit is None:
        yield from sampler.steps(predict_as(y), x, noise)
    else:
        yield from edited(sampler, predict_as(y), x, noise, edit, predict_as(edit.shown))


def count_evaluations(diffusion: DiffusionSpec, settings: SampleSpec, channels: int, edit: Edit | None = None) -> int:
    """NFE: how often an image goes through a network, guidance and autoguidance's other one included.

    Counted, not derived: the trajectory of pixels with a network that only keeps count. So many that what is asked once
    for all of a group counts as one call an image. Of ``edit`` the images themselves do not matter.
    """
    return _count(diffusion, settings, channels, edit)[0]


def takes_noise(diffusion: DiffusionSpec, settings: SampleSpec) -> bool:
    """Whether the sampler of ``settings`` draws noise at its steps, so that it is no ODE's. Found by trying."""
    return _count(diffusion, settings, 1, None)[1] > 0


def _count(diffusion: DiffusionSpec, settings: SampleSpec, channels: int, edit: Edit | None) -> tuple[int, int]:
    """Network calls an image, and how often noise is asked for."""
    calls = noises = 0

    def network(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        nonlocal calls
        calls += len(x)
        return x.repeat(1, 2, 1, 1) if diffusion.learn_sigma else x

    def noise(k: int) -> Tensor:
        nonlocal noises
        noises += 1
        return pixels

    pixels, labels = torch.zeros(NOISES, channels, 1, 1), torch.zeros(NOISES).long()
    guide = network if settings.guidance.name == "autoguidance" else None
    if edit is not None:
        drawn = None if edit.drawn is None else torch.ones(1, 1, 1, 1, dtype=torch.bool)
        edit = replace(edit, x0=pixels, drawn=drawn, shown=labels)
    for _ in trajectory(network, diffusion, settings, pixels, labels, noise, guide=guide, edit=edit):
        pass
    return calls // NOISES, noises
