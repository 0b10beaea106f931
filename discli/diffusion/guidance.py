"""Guidance: away from a worse prediction, by how much and at which noise levels.

    out = uncond + scale(t) * (cond - uncond)

uncond is the same network without a class (classifier-free guidance, arXiv:2207.12598), or the guide, a
weaker network (autoguidance, arXiv:2406.02507). How the scale changes over the steps is a file in
``scale_schedules/``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from discli.diffusion.schedule import Schedule
from discli.recipe.sample import SampleSpec

# network(x, t, y): x (B, C, H, W), t (B,), y (B,) or None to (B, C or 2C, H, W). Guided, t is a time of the schedule.
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
GuidedNetwork = Callable[[Tensor, float, Tensor | None], Tensor]


def scale_at(settings: SampleSpec, schedule: Schedule) -> Callable[[float], float]:
    """The guidance scale as a function of time; 1 outside of the interval, and where there is no guidance."""
    interval = settings.cfg_interval

    def scale(t: float) -> float:
        a, s = schedule.at(t)
        level = s / a if a > 0 else math.inf
        if interval is not None and not interval.low < level <= interval.high:
            return 1.0
        return 1 + (settings.cfg_scale - 1) * settings.cfg_schedule.share(1 - schedule.fraction(t))

    return scale


def guided(
    network: Network, settings: SampleSpec, schedule: Schedule, null_class: int, guide: Network | None = None
) -> GuidedNetwork:
    """``call(x, t, y)`` of x (B, C, H, W), a time of ``schedule`` and y (B,): what the network predicts, guided.

    Both halves of classifier-free guidance go through the network in one forward, and none where
    the scale is 1. Predicted noise is guided on every channel; ``first-three`` guides only channels
    0..2, as the DiS authors' code does even for four latent channels. A learned variance is the
    conditional prediction's own. ``guide`` is autoguidance's other network.
    """
    scale_of = scale_at(settings, schedule)

    def call(x: Tensor, t: float, y: Tensor | None) -> Tensor:
        scale, times = scale_of(t), schedule.for_network(t, x)
        if scale == 1.0:
            return network(x, times, y)
        if guide is not None:
            cond, uncond = network(x, times, y), guide(x, times, y)
        else:
            assert y is not None, "classifier-free guidance needs classes"
            both = network(x.repeat(2, 1, 1, 1), times.repeat(2), torch.cat([y, torch.full_like(y, null_class)]))
            cond, uncond = both.chunk(2)
        count = 3 if settings.guided_channels == "first-three" else x.shape[1]
        guided = uncond[:, :count] + scale * (cond[:, :count] - uncond[:, :count])
        return torch.cat([guided, cond[:, count:]], dim=1)

    return call
