"""Images that begin from given ones instead of from noise alone, for every sampler and objective.

- From a noisy image part of the way: SDEdit (arXiv:2108.01073).
- The rest of an image, around what is kept: RePaint (arXiv:2201.09865).
- From the noise that an image would come from: DDIM, backwards (arXiv:2010.02502, section 4.3).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from discli.diffusion.samplers import Noise, Predict, Prediction, Sampler
from discli.diffusion.schedule import Schedule

# As RePaint's, 10 of 250 steps: so many stretches are walked again and again.
_STRETCHES = 25


@dataclass(frozen=True)
class Edit:
    """What is given of the B images that a sampler makes."""

    x0: Tensor  # (B, C, H, W), clean, as the network sees them
    strength: float = 1.0  # the share of the steps that is taken; 0: none, the image as it is
    drawn: Tensor | None = None  # (1, 1, H, W) bool: what is drawn, the rest is kept; None: everything
    resamplings: int = 1  # how often each stretch is walked where something is kept
    invert: bool = False  # begin from the noise that the image would come from, not from a random one
    shown: Tensor | None = None  # (B,) the classes that an image is inverted as


def steps_taken(steps: int, strength: float) -> int:
    """How many of the last ``steps``: at least one, where ``strength`` is above 0."""
    return max(round(strength * steps), 1 if strength > 0 else 0)


def edited(
    sampler: Sampler, predict: Predict, x: Tensor, noise: Noise, edit: Edit, predict_shown: Predict
) -> Iterator[Tensor]:
    """Yields (B, C, H, W) after every step, those of the inversion included; the last one is the edited image.

    ``x`` (B, C, H, W) is pure noise, and ``noise(k)`` as a sampler takes it; beyond the number of steps it is asked
    for what resampling needs. ``predict_shown`` predicts for the classes that an image is inverted as.
    """
    schedule, times = sampler.schedule, sampler.times
    steps = len(times) - 1
    first = steps - steps_taken(steps, edit.strength)
    a, s = schedule.at(times[first])
    start = a * edit.x0 + s * x
    if edit.invert:
        for start in inverted(predict_shown, schedule, times[first:], edit.x0):
            yield start
    elif first == 0:
        # What is drawn begins as a sample does, even where a schedule's noisiest image is not noise alone.
        start = x if edit.drawn is None else torch.where(edit.drawn, x, start)
    if first == steps:
        yield start
    elif edit.drawn is None:
        yield from sampler.part(first, steps).steps(predict, start, lambda k: noise(first + k))
    else:
        yield from _painted(sampler, _keeping(predict, schedule, edit.x0, edit.drawn), start, noise, first, edit)


def inverted(predict: Predict, schedule: Schedule, times: list[float], x0: Tensor) -> Iterator[Tensor]:
    """DDIM from clean ``x0`` (B, C, H, W) back to ``times[0]``: yields x after every step, the last at ``times[0]``.

    Euler's steps along the probability-flow ODE, towards noise (arXiv:2010.02502, eq. 14). The network is not trained
    at the clean end: the first step takes its answer of where that step leads.
    """
    x = x0
    for t, t_next in pairwise(reversed(times)):
        found = predict(x, t_next if t == schedule.clean else t)
        (scale, tau), (scale_next, tau_next) = schedule.ode_variables(t), schedule.ode_variables(t_next)
        x = scale_next * (x / scale + (tau_next - tau) * schedule.slope(found.x0, found.eps))
        yield x


def _keeping(predict: Predict, schedule: Schedule, x0: Tensor, drawn: Tensor) -> Predict:
    """``predict``, to which what is not ``drawn`` is known to become ``x0``.

    RePaint puts a noisy known image in place after each step (its eq. 8a). Told to the sampler beforehand, the
    same holds for samplers that look back on what was predicted: what is kept follows q(x_prev | x_t, x0), so that
    at every time it is a x0 + s noise, and at the end x0.
    """

    def kept(x: Tensor, t: float) -> Prediction:
        found = predict(x, t)
        a, s = schedule.at(t)
        interpolation = found.interpolation
        if interpolation is not None:  # -1: the variance of q(x_prev | x_t, x0) itself
            interpolation = torch.where(drawn, interpolation, -1.0)
        eps = torch.where(drawn, found.eps, (x - a * x0) / s)
        return Prediction(torch.where(drawn, found.x0, x0), eps, interpolation)

    return kept


def _painted(sampler: Sampler, predict: Predict, x: Tensor, noise: Noise, first: int, edit: Edit) -> Iterator[Tensor]:
    """RePaint's algorithm 1 with its jumps (section 4.2): each stretch of steps is walked ``edit.resamplings`` times.

    Noise takes the image back to where the stretch began, and with it what was drawn adapts to what is kept. The
    last step, to the clean image, is taken once.
    """
    schedule, times = sampler.schedule, sampler.times
    steps = len(times) - 1
    last = steps - 1 if edit.resamplings > 1 else first
    length = max(1, round(steps / _STRETCHES))
    for begin in range(first, last, length):
        end = min(begin + length, last)
        stretch = sampler.part(begin, end)
        for again in range(edit.resamplings):
            if again:
                # Numbers of no step of the sampler's, and none of them twice.
                x = _noisier(schedule, x, times[end], times[begin], noise(begin + (2 * again - 1) * steps))
            for state in stretch.steps(predict, x, partial(_shifted, noise, begin + 2 * again * steps)):
                yield state
            x = state
    yield from sampler.part(last, steps).steps(predict, x, partial(_shifted, noise, last))


def _shifted(noise: Noise, by: int, k: int) -> Tensor:
    return noise(by + k)


def _noisier(schedule: Schedule, x: Tensor, t: float, later: float, noise: Tensor) -> Tensor:
    """x at time ``t`` with so much ``noise`` more as there is at ``later``: q(x_later | x_t)."""
    (a, s), (a_later, s_later) = schedule.at(t), schedule.at(later)
    share = a_later / a
    return share * x + math.sqrt(s_later**2 - (share * s) ** 2) * noise
