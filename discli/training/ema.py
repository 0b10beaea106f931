"""Averages of the weights over training: the ones that previews and samples use."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from discli.recipe import train as spec

Weights = dict[str, Tensor]


class Ema(Protocol):
    averages: dict[str, Weights]  # file stem -> weights; "ema" is the one to sample with

    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` optimizer steps (1, 2, ...)."""
        ...


class ConstantEma:
    """ema = decay * ema + (1 - decay) * weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.averages = {"ema": _copy(model)}

    def update(self, model: nn.Module, step: int) -> None:
        _lerp(self.averages["ema"], model, 1 - self.decay)


class PowerEma:
    """EDM2's averages with the profile p(tau) ~ tau^gamma (arXiv:2312.02696, section 3.1)."""

    def __init__(self, model: nn.Module, stds: Sequence[float], snapshot_every: int) -> None:
        self.stds = tuple(stds)
        self.snapshot_every = snapshot_every
        self.averages = {stem(i): _copy(model) for i in range(len(self.stds))}

    def update(self, model: nn.Module, step: int) -> None:
        for weights, std in zip(self.averages.values(), self.stds, strict=True):
            # eq. 127: beta = (1 - 1/t)^(gamma + 1), so that the first step replaces the initial weights.
            _lerp(weights, model, 1 - (1 - 1 / step) ** (gamma_of(std) + 1))


def build_ema(choice: spec.Ema, model: nn.Module) -> ConstantEma | PowerEma:
    if choice.name == "power":
        return PowerEma(model, choice.stds, choice.snapshot_every)
    return ConstantEma(model, choice.decay)


def stem(index: int) -> str:
    """File name of the index-th average, without its ending."""
    return "ema" if index == 0 else f"ema-{index}"


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


def posthoc_coefficients(snapshots: Sequence[tuple[int, float]], step: int, std: float) -> np.ndarray:
    """Weights of stored snapshots, (step, std) each, whose sum best rebuilds the average of ``std`` at ``step``.

    Least squares between averaging profiles (arXiv:2312.02696, section 3.2), whose inner products
    over training time have a closed form.
    """
    gram = np.array([[_overlap(a, b) for b in snapshots] for a in snapshots])
    wanted = np.array([_overlap(a, (step, std)) for a in snapshots])
    return np.asarray(np.linalg.lstsq(gram, wanted, rcond=1e-13)[0])


def _std_of(gamma: float) -> float:
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def _overlap(a: tuple[int, float], b: tuple[int, float]) -> float:
    """Integral of p_a p_b, with p(tau) = (g + 1) tau^g / t^(g + 1) on [0, t]."""
    (t_a, std_a), (t_b, std_b) = a, b
    g_a, g_b = gamma_of(std_a), gamma_of(std_b)
    # In powers of ratios, because t^gamma itself overflows.
    ratio: float = (min(t_a, t_b) / t_a) ** g_a * (min(t_a, t_b) / t_b) ** g_b
    return (g_a + 1) * (g_b + 1) / (g_a + g_b + 1) * ratio / max(t_a, t_b)


def _copy(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def _lerp(average: Weights, model: nn.Module, weight: float) -> None:
    parameters = [parameter.detach() for parameter in model.parameters()]
    torch._foreach_lerp_(list(average.values()), parameters, weight)
