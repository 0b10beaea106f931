"""Classifier-free guidance (arXiv:2207.12598)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def guided(
    network: Network,
    null_class: int,
    cfg_scale: float,
    channels: Literal["all", "first-three"] = "all",
) -> Network:
    """null + cfg_scale * (class - null), both halves in one forward; ``cfg_scale`` 1 is the plain network.

    Predicted noise is guided on every channel. ``first-three`` guides only channels 0..2, as the DiS
    authors' code does even for four latent channels; the learned variance is the class's own.
    """

    def call(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None, "guidance needs classes"
        both = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, torch.full_like(y, null_class)]))
        with_class, without = both.chunk(2)
        guided_channels = 3 if channels == "first-three" else x.shape[1]
        head, tail = with_class[:, :guided_channels], with_class[:, guided_channels:]
        null = without[:, :guided_channels]
        return torch.cat([null + cfg_scale * (head - null), tail], dim=1)

    return network if cfg_scale == 1.0 else call
