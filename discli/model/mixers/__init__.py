"""How tokens exchange information. One file each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from discli.model.mlp import Mlp
from discli.model.order import TokenOrder
from discli.recipe.kinds import MixerSpec
from discli.recipe.model import ModelSpec
from discli.scan import Choice, choose_backend


class Mixer(nn.Module, ABC):
    """Maps (B, L, D) to (B, L, D). Tokens come in raster order, the extra ones in front.

    Its last layer is ``out_proj``, whose initial weights shrink with the number of layers. An ``init_weights``,
    where there is one, sets the other initial values (`discli.model.init`).
    """

    spec: ClassVar[type[MixerSpec]]
    # What mixes channels after it, as a second layer of the block; None: nothing.
    channel_mixing: ClassVar[type[Mlp] | None] = None
    out_proj: nn.Linear

    def __init__(self, model: ModelSpec, orders: Sequence[TokenOrder]) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, u_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""

    @abstractmethod
    def flops(self, L: int) -> dict[str, int]:
        """Of one image with L tokens, by part, a multiply-add as two.

        What is no matrix product in a scan is the part "scan"; what does an operation or so to each element
        is left out.
        """


def choose_scan(model: ModelSpec, device: torch.device) -> Choice:
    """What computes the model's scans on ``device``. Raises DiscliError as `discli.scan.choose_backend` does."""
    if model.uses_scan:
        return choose_backend(model.scan, device, model.d_state)
    names = " and ".join(dict.fromkeys(mixer.name for mixer in model.mixers))
    return Choice("torch", f"{names} is made of PyTorch's matrix products")
