"""Guidance: away from a worse prediction, by how much and at which noise levels.

    out = worse + scale(t) * (better - worse)

Worse is the same network without a class (classifier-free guidance, arXiv:2207.12598) or a weaker
network (autoguidance, arXiv:2406.02507). To add a schedule of the scale: a class here, its name in
``SCALES``, and a Spec of the same name in `discli.recipe.sample`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from discli.diffusion.schedule import Schedule
from discli.recipe.sample import SampleSpec

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Guided = Callable[[Tensor, float, Tensor | None], Tensor]


class ConstantScale:
    """The whole scale throughout."""

    def __call__(self, progress: float) -> float:
        return 1.0


class LinearScale:
    """Share of the scale beyond 1 that rises with progress, 0 in pure noise, 1 at the end."""

    def __call__(self, progress: float) -> float:
        return progress


class CosineScale:
    """(1 - cos(pi progress^power)) / 2: late, then steeply (MDT, arXiv:2303.14389)."""

    def __init__(self, power: float) -> None:
        self.power = power

    def __call__(self, progress: float) -> float:
        return (1 - math.cos(math.pi * progress**self.power)) / 2


SCALES: dict[str, Callable[..., Callable[[float], float]]] = {
    "constant": ConstantScale,
    "linear": LinearScale,
    "cosine": CosineScale,
}


def scale_at(settings: SampleSpec, schedule: Schedule) -> Callable[[float], float]:
    """The guidance scale as a function of time; 1 outside of the interval, and where there is no guidance."""
    share = SCALES[settings.cfg_schedule.name](**settings.cfg_schedule.model_dump(exclude={"name"}))
    interval = settings.cfg_interval

    def scale(t: float) -> float:
        a, s = schedule.at(t)
        level = s / a if a > 0 else math.inf
        if interval is not None and not interval.low < level <= interval.high:
            return 1.0
        return 1 + (settings.cfg_scale - 1) * share(1 - schedule.fraction(t))

    return scale


def guided(
    network: Network, settings: SampleSpec, schedule: Schedule, null_class: int, weak: Network | None = None
) -> Guided:
    """``call(x, t, y)`` of x (B, C, H, W), a time of ``schedule`` and y (B,): what the network predicts, guided.

    Both halves of classifier-free guidance go through the network in one forward, and none where
    the scale is 1. Predicted noise is guided on every channel; ``first-three`` guides only channels
    0..2, as the DiS authors' code does even for four latent channels. A learned variance is the
    better prediction's own. ``weak`` is autoguidance's other network.
    """
    scale = scale_at(settings, schedule)

    def call(x: Tensor, t: float, y: Tensor | None) -> Tensor:
        strength, times = scale(t), schedule.for_network(t, x)
        if strength == 1.0:
            return network(x, times, y)
        if weak is not None:
            better, worse = network(x, times, y), weak(x, times, y)
        else:
            assert y is not None, "classifier-free guidance needs classes"
            both = network(x.repeat(2, 1, 1, 1), times.repeat(2), torch.cat([y, torch.full_like(y, null_class)]))
            better, worse = both.chunk(2)
        count = 3 if settings.guided_channels == "first-three" else x.shape[1]
        head, base = better[:, :count], worse[:, :count]
        return torch.cat([base + strength * (head - base), better[:, count:]], dim=1)

    return call
