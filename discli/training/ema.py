"""Averages of the weights over training: the ones that previews and samples use."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from discli.recipe import train as spec
from discli.runs.layout import EMA

Weights = dict[str, Tensor]


class Ema(Protocol):
    averages: dict[str, Weights]  # file stem -> weights; `EMA` is the one to sample with

    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` optimizer steps (1, 2, ...)."""
        ...


class ConstantEma:
    """ema = decay * ema + (1 - decay) * weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.averages = {EMA: _copy(model)}

    def update(self, model: nn.Module, step: int) -> None:
        _lerp(self.averages[EMA], model, 1 - self.decay)


class PowerEma:
    """EDM2's averages with the profile p(tau) ~ tau^gamma (arXiv:2312.02696, section 3.1)."""

    def __init__(self, model: nn.Module, stds: Sequence[float], snapshot_every: int) -> None:
        self.stds = tuple(stds)
        self._gammas = [gamma_of(std) for std in stds]
        self.snapshot_every = snapshot_every
        self.averages = {stem(i): _copy(model) for i in range(len(self.stds))}

    def update(self, model: nn.Module, step: int) -> None:
        for weights, gamma in zip(self.averages.values(), self._gammas, strict=True):
            # eq. 127: beta = (1 - 1/t)^(gamma + 1), so that the first step replaces the initial weights.
            _lerp(weights, model, 1 - (1 - 1 / step) ** (gamma + 1))


def build_ema(choice: spec.Ema, model: nn.Module) -> ConstantEma | PowerEma:
    if choice.name == "power":
        return PowerEma(model, choice.stds, choice.snapshot_every)
    return ConstantEma(model, choice.decay)


def stem(index: int) -> str:
    """File name of the index-th average, without its ending."""
    return EMA if index == 0 else f"{EMA}-{index}"


def gamma_of(std: float) -> float:
    """The exponent whose profile has this relative width: std^2 = (g + 1) / ((g + 2)^2 (g + 3)).

    The width falls as gamma grows, so bisection finds it.
    """
    low, high = 0.0, 1.0
    while _std_of(high) > std:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _std_of(middle) > std else (low, middle)
    return (low + high) / 2


class PosthocAverage(NamedTuple):
    coefficients: np.ndarray  # of the snapshots, in their order
    error: float  # distance between the profiles, relative to the wanted one's norm


def posthoc_average(snapshots: Sequence[tuple[int, float]], step: int, std: float) -> PosthocAverage:
    """Weights of stored snapshots, (step, std) each, whose sum best rebuilds the average of ``std`` at ``step``.

    Least squares between averaging profiles (arXiv:2312.02696, section 3.2), whose inner products
    over training time have a closed form. Unlike the paper's unconstrained least squares (EDM2's code
    rescales afterwards), these weights sum to one from the start: what is the same in all snapshots,
    most of a network late in training, must come out unscaled.
    """
    times = np.array([at for at, _ in snapshots], dtype=np.float64)
    gammas = np.array([gamma_of(s) for _, s in snapshots])
    target = np.array(float(step)), np.array(gamma_of(std))
    gram = _overlap(times[:, None], gammas[:, None], times, gammas)
    wanted = _overlap(times, gammas, *target)
    norm = float(_overlap(*target, *target))

    # Measured from the snapshot that is nearest already, whose own weight is what is left to one.
    distances = norm - 2 * wanted + gram.diagonal()
    nearest = int(distances.argmin())
    others = np.delete(np.arange(len(times)), nearest)
    across = gram[others, nearest]
    shifted = gram[np.ix_(others, others)] - across[:, None] - across + gram[nearest, nearest]
    aim = wanted[others] - wanted[nearest] - across + gram[nearest, nearest]
    coefficients = np.empty(len(times))
    coefficients[others] = np.linalg.lstsq(shifted, aim, rcond=1e-13)[0]
    coefficients[nearest] = 1 - coefficients[others].sum()

    left = norm - 2 * coefficients @ wanted + coefficients @ gram @ coefficients
    return PosthocAverage(coefficients, math.sqrt(max(float(left) / norm, 0.0)))


def _std_of(gamma: float) -> float:
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def _overlap(t_a: np.ndarray, g_a: np.ndarray, t_b: np.ndarray, g_b: np.ndarray) -> np.ndarray:
    """Integral of p_a p_b, with p(tau) = (g + 1) tau^g / t^(g + 1) on [0, t]; the arguments broadcast."""
    shorter = np.minimum(t_a, t_b)
    # In powers of ratios, because t^gamma itself overflows.
    ratio = (shorter / t_a) ** g_a * (shorter / t_b) ** g_b
    return np.asarray((g_a + 1) * (g_b + 1) / (g_a + g_b + 1) * ratio / np.maximum(t_a, t_b))


def _copy(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def _lerp(average: Weights, model: nn.Module, weight: float) -> None:
    parameters = [parameter.detach() for parameter in model.parameters()]
    torch._foreach_lerp_(list(average.values()), parameters, weight)
