"""Contrastive flow matching (arXiv:2506.05350): a velocity unlike that of other samples, and its undoing by guidance.

The loss is |v_hat - v|^2 - weight |v_hat - v_j|^2, with the velocity v_j = eps_j - x0_j of another sample of the batch.
Since v_j has nothing to do with x_t, the best network for it is

    v_hat = (E[v | x_t] - weight T) / (1 - weight),  T = E[v_j] = -E[x0].

Guidance, a sum of such answers with weights that sum to 1, carries the same T, and is right as
(1 - weight) v_hat + weight T (section 5.4 of the paper; its code scales and subtracts so where it guides).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from discli.diffusion.objectives import Objective
from discli.diffusion.schedule import Schedule
from discli.runtime.rng import RngStream, normal

_SEED = 0  # whatever the samples' is: T is the network's alone
NOISES = 16  # that T is averaged over, however many images are sampled at once


def mean_velocity(
    network: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    objective: Objective,
    schedule: Schedule,
    weight: float,
    like: Tensor,
    classes: Tensor | None,
) -> Tensor:
    """T (1, C, H, W), as the network itself has it: its answer to pure noise without a class, where x_t says nothing.

    There E[v | eps] = eps + T, so that T = v_hat - eps / (1 - weight); averaged over ``classes`` (N,) or, of none, over
    `NOISES`, with the same noise always. Each call of the network is of as many as ``like`` (B, C, H, W) has samples.
    The paper takes the mean of the data, which a checkpoint does not hold.
    """
    start, B = 1.0, len(like)
    N = NOISES if classes is None else len(classes)
    a, s = (torch.tensor(number, dtype=torch.float64) for number in schedule.at(start))
    found: list[Tensor] = []
    for slots in torch.arange(-(-N // B) * B, device=like.device).split(B):
        noise = normal(_SEED, RngStream.NOISE, 0, slots, like.shape[1:]).to(like)
        y = None if classes is None else classes[slots % N]
        out = network(noise, schedule.for_network(start, like), y).to(like.dtype)
        found.append(objective.velocity(noise, out, a, s) - noise / (1 - weight))
    return torch.cat(found)[:N].mean(0, keepdim=True)


def classes_of_mean(num_classes: int, null_is_trained: bool, device: torch.device) -> Tensor:
    """(N,) int64, at most `NOISES`: what `mean_velocity` averages over.

    The null class, ``num_classes``; of a network that never trained without a class, all of them, or as many as that
    evenly spread, as often as one another: T is the mean of theirs where the data has as much of each.
    """
    if null_is_trained:
        return torch.full((NOISES,), num_classes, device=device)
    N = NOISES // num_classes * num_classes or NOISES
    return torch.arange(N, device=device) * num_classes // N


def corrected(velocity: Tensor, mean: Tensor, weight: float) -> Tensor:
    """E[v | x_t], guided, of what a network that was trained with ``weight`` predicts, guided; both (B, C, H, W)."""
    return (1 - weight) * velocity + weight * mean
