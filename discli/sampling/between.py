"""From one noise or class to another, a frame an image: the first and the last are plain samples."""

import math
from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor, nn

from discli.diffusion.samplers import Noise
from discli.model import DiS
from discli.runs.manifest import Between
from discli.runtime.errors import DiscliError

FRAMES = 16


def settle_between(what: str | None, n: int | None, classes: Sequence[int], num_classes: int) -> Between | None:
    """What was asked for, checked. Raises DiscliError for what has no two ends."""
    if what is None:
        return None
    if what not in ("noises", "classes"):
        raise DiscliError(f"--between {what}: not known.", "Give noises or classes.")
    if n == 1:
        raise DiscliError("-n 1: nothing lies between.", "Give at least 2 images.")
    if what == "classes" and num_classes == 0:
        raise DiscliError("--between classes: this model is unconditional.", "Give --between noises.")
    if what == "classes" and len(classes) != 2:
        raise DiscliError(
            f"--between classes goes from one to another, and --classes names {len(classes) or 'none'}.",
            "Give both, such as --classes 3,8.",
        )
    if what == "noises" and len(classes) > 1:
        raise DiscliError(
            "--between noises keeps one class.", "Give one, such as --classes 3, or none: that of image 0."
        )
    return Between(what=what, frames=n or FRAMES)


def shares(between: Between, members: Tensor) -> Tensor:
    """(B,) float64: how far the images with numbers ``members`` (B,) have come, from 0 to 1."""
    return (members.double() / (between.frames - 1)).clamp(max=1)


def noise_between(share: Tensor, first: Noise, second: Noise) -> Noise:
    """What `Sampler.steps` takes, a ``share`` (B,) of the way; the two ends' are (1, C, H, W).

    DDIM's spherical interpolation (arXiv:2010.02502, eq. 67) with the angle between independent noises, a right
    one: of every frame's noise the distribution is exactly normal, and the ends' are their own.
    """
    angle = (share * (math.pi / 2))[:, None, None, None]

    def noise(k: int) -> Tensor:
        one, other = first(k), second(k)
        return (angle.cos() * one + angle.sin() * other).to(one.dtype)

    return noise


def with_classes_between(network: DiS, ends: tuple[int, int], share: Tensor) -> DiS:
    """A network of the same parameters that knows a further class for each ``share`` (K,): ``num_classes + 1 + k``.

    Its embedding lies that far on the straight line between those of the classes ``ends``.
    """
    if network.class_embed is None:
        return network
    table = network.class_embed.weight
    first, second = (table[end].double() for end in ends)
    mixed = (1 - share)[:, None] * first + share[:, None] * second
    twin = copy(network)
    twin._modules = dict(network._modules)  # shared otherwise, so that the network would have the new table too
    twin.class_embed = nn.Embedding.from_pretrained(torch.cat([table, mixed.to(table.dtype)]))
    return twin
