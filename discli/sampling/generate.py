"""From a sampling plan to images.

Image i depends on (seed, i) alone. Its noise comes from a stream of its own, and the network always
runs on whole groups of ``model_batch`` images in which image i has a fixed place, because the last
bits of a matrix product depend on how many rows it has.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from discli.diffusion import trajectory
from discli.diffusion.guidance import Network
from discli.diffusion.samplers import build_sampler
from discli.diffusion.schedule import build_schedule
from discli.recipe import Recipe
from discli.recipe.sample import SampleSpec
from discli.runtime.signals import safe_place
from discli.sampling.plan import SamplingPlan, noise_of

TRAJECTORY_IMAGES, TRAJECTORY_FRAMES = 6, 10


def generate(plan: SamplingPlan, n: int, groups: Iterable[int] | None = None) -> Iterator[tuple[list[int], Tensor]]:
    """The first n images, a group at a time: their numbers, and (B, 3, H, W) uint8 pixels on the model's device.

    ``groups`` (default: all) are those of `SamplingPlan.groups` that are wanted.
    """
    for members, x0 in generate_latents(plan, n, groups):
        yield members, plan.decode(members, x0)


def generate_latents(
    plan: SamplingPlan, n: int, groups: Iterable[int] | None = None
) -> Iterator[tuple[list[int], Tensor]]:
    """`generate` before decoding: (B, C, H, W) float32 in model space."""
    network, weak = plan.networks()
    size, device = plan.model_batch, plan.model.device
    for group in plan.groups(n) if groups is None else groups:
        members = torch.arange(group * size, (group + 1) * size, device=device)
        for state in _states(plan, network, weak, members):
            x0 = state
            safe_place()
        kept = min(size, n - group * size)
        yield list(range(group * size, group * size + kept)), x0[:kept]


def sample_batch(
    network: Callable[..., Tensor],
    recipe: Recipe,
    settings: SampleSpec,
    members: Tensor,
    labels: Tensor | None,
    seed: int,
) -> Iterator[Tensor]:
    """Yields (B, C, H, W) in model space after every step, for images ``members`` and classes ``labels`` (B,)."""
    noise = noise_of(recipe.input_shape, seed, members)
    null_class, dropped = recipe.model.num_classes, recipe.train.class_dropout_prob > 0
    return trajectory(network, recipe.diffusion, settings, noise(-1), labels, noise, null_class, None, dropped)


def _states(plan: SamplingPlan, network: Network, weak: Network | None, members: Tensor) -> Iterator[Tensor]:
    """`sample_batch` as ``plan`` has it: from given images too, and between two."""
    recipe, noise, labels = plan.model.recipe, plan.noise(members), plan.labels(members)
    edit = None if plan.given is None else plan.given.edit_of(members)
    null_class, dropped = recipe.model.num_classes, recipe.train.class_dropout_prob > 0
    return trajectory(
        network, recipe.diffusion, plan.settings, noise(-1), labels, noise, null_class, weak, dropped, edit
    )


def denoising_trajectory(plan: SamplingPlan, decode: Callable[[Tensor], Tensor]) -> list[tuple[str, Tensor]]:
    """The first few images from noise to image: named frames of (TRAJECTORY_IMAGES, 3, H, W) uint8 on the CPU.

    Frames are spread not evenly in steps, most of which are noise alone, but in the angle between noise and
    signal, the deviation of which in images is about a half (sigma_data of arXiv:2206.00364).
    """
    members = torch.arange(plan.model_batch, device=plan.model.device)
    recipe, settings = plan.model.recipe, plan.settings
    network, weak = plan.networks()
    states = [plan.noise(members)(-1)[:TRAJECTORY_IMAGES]]
    for state in _states(plan, network, weak, members):
        states.append(state[:TRAJECTORY_IMAGES].clone())  # a view would keep the whole group in memory
    schedule = build_schedule(recipe.diffusion)
    levels = [schedule.at(t) for t in build_sampler(recipe.diffusion, settings).times]
    shown = _spread_over([math.atan2(s, 0.5 * a) for a, s in levels], TRAJECTORY_FRAMES)
    return [(f"step {k}\nnoise {_ratio(*levels[k])}", decode(states[k]).cpu()) for k in shown]


def _spread_over(angles: Sequence[float], most: int) -> list[int]:
    """At most that many of the falling ``angles``: first, last, and those nearest to equal distances between them."""
    if len(angles) <= most:
        return list(range(len(angles)))
    chosen = [0]
    for place in range(1, most):
        wanted = angles[0] + (angles[-1] - angles[0]) * place / (most - 1)
        # None twice, and enough left over for those to come.
        free = range(chosen[-1] + 1, len(angles) - (most - 1 - place))
        chosen.append(min(free, key=lambda k: abs(angles[k] - wanted)))
    return chosen


def _ratio(a: float, s: float) -> str:
    """Noise over signal, as --cfg-interval counts it."""
    ratio = s / a if a > 0 else math.inf
    return "only" if ratio == math.inf else f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2f}".rstrip("0").rstrip(".")
