"""A recipe's way from noise to samples: schedule, objective, guidance and sampler put together."""

from collections.abc import Iterator

import torch
from torch import Tensor

from discli.diffusion.contrastive import NOISES, classes_of_mean, corrected, mean_velocity
from discli.diffusion.guidance import Network, guided, scale_at
from discli.diffusion.objectives import Objective
from discli.diffusion.samplers import Noise, Sampler, predictor
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
) -> Iterator[Tensor]:
    """Yields x (B, C, H, W) after every step, starting from pure noise ``x``; the last one is the sample.

    ``noise(k)`` is step k's, (B, C, H, W). ``guide`` is autoguidance's other network. ``null_class`` is the number of
    classes too; False for ``null_is_trained`` where training left no class out.
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

    predict = predictor(network_guided, schedule, objective, y, settings.clip_denoised, correct)
    yield from sampler.steps(predict, x, noise)


def count_evaluations(diffusion: DiffusionSpec, settings: SampleSpec, channels: int) -> int:
    """NFE: how often an image goes through a network, guidance and autoguidance's other one included.

    Counted, not derived: the trajectory of pixels with a network that only keeps count. So many that what is asked once
    for all of a group counts as one call an image.
    """
    calls = 0

    def network(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        nonlocal calls
        calls += len(x)
        return x.repeat(1, 2, 1, 1) if diffusion.learn_sigma else x

    pixels, labels = torch.zeros(NOISES, channels, 1, 1), torch.zeros(NOISES).long()
    guide = network if settings.guidance.name == "autoguidance" else None
    for _ in trajectory(network, diffusion, settings, pixels, labels, lambda k: pixels, guide=guide):
        pass
    return calls // NOISES
