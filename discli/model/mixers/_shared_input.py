"""What mixers have in common whose two directions scan the same x: a quasi-separable matrix for each head and walk."""

import math
import operator
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.flops import matmul_flops
from discli.model.mixers import Mixer
from discli.model.mixers._bidirectional import CHUNK_MASK
from discli.model.order import TokenOrder
from discli.recipe.model import ModelSpec


class Walk(nn.Module, ABC):
    """Both directions of one walk over the tokens."""

    settings: int  # channels that it wants of in_proj beside x

    @abstractmethod
    def forward(self, x_BLE: Tensor, settings_BLR: Tensor) -> Tensor:
        """(B, L, E), float32 or wider."""

    @abstractmethod
    def flops(self, L: int) -> dict[str, int]:
        """Of L tokens, by part."""


class SharedInputMixer(Mixer):
    """Each token hears all others, at a cost linear in L, and x is made once for both directions.

    ``in_proj`` makes the gate, x, and of every walk what sets its matrices; ``out_proj`` brings back what
    the walks found, added up, normed where a mixer has a ``norm``, and gated.
    """

    def __init__(self, model: ModelSpec, orders: Sequence[TokenOrder], walk: Callable[[], Walk]) -> None:
        super().__init__(model, orders)
        d_inner = model.expand * model.embed_dim
        walks = [walk() for _ in orders]
        self.sizes = [d_inner, d_inner, *(one.settings for one in walks)]
        self.in_proj = nn.Linear(model.embed_dim, sum(self.sizes), bias=False)
        self.walks = nn.ModuleList(walks)
        self.norm: nn.Module = nn.Identity()
        self.out_proj = nn.Linear(d_inner, model.embed_dim, bias=False)
        self.orders = nn.ModuleList(orders)

    def forward(self, u_BLD: Tensor) -> Tensor:
        # A product for each, so that backward nothing has to be joined first.
        z_BLE, x_BLE, *settings = (F.linear(u_BLD, weight) for weight in self.in_proj.weight.split(self.sizes))
        walks = zip(cast(Iterable[TokenOrder], self.orders), self.walks, settings, strict=True)
        ys = [order.unpermute(walk(order.permute(x_BLE), order.permute(own))) for order, walk, own in walks]
        y_BLE = self.norm(reduce(operator.add, ys))
        mixed: Tensor = self.out_proj((y_BLE * F.silu(z_BLE.to(y_BLE.dtype))).to(z_BLE.dtype))
        return mixed

    def flops(self, L: int) -> dict[str, int]:
        D, E = self.out_proj.out_features, self.out_proj.in_features
        count = Counter({"in_proj and out_proj": matmul_flops(L, D, sum(self.sizes)) + matmul_flops(L, E, D)})
        for walk in cast(Iterable[Walk], self.walks):
            count.update(walk.flops(L))
        return dict(count)


def scan_flops(L: int, E: int, H: int, N: int, chunk: int) -> dict[str, int]:
    """Of `discli.scan.quasiseparable.quasiseparable`."""
    chunks = math.ceil(L / chunk)
    Q = math.ceil(L / chunks)
    products, others = 2 * H * matmul_flops(Q, N, Q) + matmul_flops(Q, Q, E), CHUNK_MASK * H * Q * Q
    if chunks > 1:
        products += 2 * matmul_flops(Q, 2 * N, E)
        others += 2 * 2 * E * N
    return {"products of the scan": chunks * products, "scan": chunks * others}
