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
    size = plan.model_batch
    for group in plan.groups(n) if groups is None else groups:
        for state in states_of(plan, network, weak, group):
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


def states_of(plan: SamplingPlan, network: Network, weak: Network | None, group: int) -> Iterator[Tensor]:
    """Yields (B, C, S, S) in model space after every step, for a whole group of the images of ``plan``.

    The networks are those of `SamplingPlan.networks`.
    """
    size = plan.model_batch
    members = torch.arange(group * size, (group + 1) * size, device=plan.model.device)
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
    network, weak = plan.networks()
    # A view would keep the whole group in memory.
    states = [state[:TRAJECTORY_IMAGES].clone() for state in states_of(plan, network, weak, 0)]
    return frames_of(plan, states, decode)


def frames_of(
    plan: SamplingPlan, states: Sequence[Tensor], decode: Callable[[Tensor], Tensor]
) -> list[tuple[str, Tensor]]:
    """`denoising_trajectory` of the first few images after each step, (TRAJECTORY_IMAGES, C, S, S) each."""
    diffusion = plan.model.recipe.diffusion
    first = torch.arange(plan.model_batch, device=plan.model.device)
    states = [plan.noise(first)(-1)[:TRAJECTORY_IMAGES], *states]
    schedule = build_schedule(diffusion)
    levels = [schedule.at(t) for t in build_sampler(diffusion, plan.settings).times]
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
