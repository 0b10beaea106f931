"""What all mixers that scan have in common: every walk over the tokens is scanned in both directions."""

import math
import operator
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.flops import matmul_flops
from discli.model.grid_convs import GridConv
from discli.model.mixers import Mixer
from discli.model.order import TokenOrder
from discli.recipe.choices import build
from discli.recipe.model import ModelSpec

# Operations on the matrix within a chunk, for each head and pair of tokens: a difference, exp and a product.
CHUNK_MASK = 3


class Direction(Protocol):
    """What one direction of one scan learns."""

    conv_weight: nn.Parameter
    conv_bias: nn.Parameter
    dt_bias: nn.Parameter

    def flops(self, L: int) -> dict[str, int]:
        """Of L tokens, by part."""


class BidirectionalMixer(Mixer):
    """Each token hears all others, at a cost linear in L.

    ``in_proj`` makes what is scanned and a gate, ``out_proj`` brings back what the scans found, added
    up; both are shared, while each direction of each walk has parameters of its own, unless the scan order
    shares them. Where it shares the channels, each walk has its part of them and gives its part of the result.
    """

    def __init__(self, model: ModelSpec, orders: Sequence[TokenOrder], direction: Callable[[], nn.Module]) -> None:
        super().__init__(model, orders)
        d_inner = model.expand * model.embed_dim
        self.in_proj = nn.Linear(model.embed_dim, 2 * d_inner, bias=False)
        self.forward_scan = direction()
        self.backward_scan = direction()
        self.shared = model.scan_order.walks_share == "parameters"
        self.parts = model.scan_parts
        self.other_scans = nn.ModuleList(direction() for _ in range(0 if self.shared else 2 * (len(orders) - 1)))
        self.out_proj = nn.Linear(d_inner, model.embed_dim, bias=False)
        self.orders = nn.ModuleList(orders)
        self.grid_conv: GridConv | None = None
        if model.grid_conv.where == "instead" and self.spec.convolves:
            self.grid_conv = build(model.grid_conv, d_inner, orders[0].extra_tokens)
        self.zero_backward_dt = model.backward_dt_init == "authors"

    @property
    def forward_scans(self) -> list[nn.Module]:
        """One for each walk, or one for all."""
        return [self.forward_scan, *self.other_scans[::2]]

    @property
    def backward_scans(self) -> list[nn.Module]:
        """One for each walk, or one for all."""
        return [self.backward_scan, *self.other_scans[1::2]]

    def init_weights(self) -> None:
        """After those of the directions: with ``backward_dt_init="authors"`` the backward dt_bias is 0.

        That is an oversight in their code. It makes the backward delta about 0.69 instead of 0.001 to 0.1.
        """
        if self.zero_backward_dt:
            for direction in cast(list[Direction], self.backward_scans):
                nn.init.zeros_(direction.dt_bias)
        if self.grid_conv is not None:  # of each scan's own convolution a scale and a shift are left: 1 and 0
            for direction in cast(list[Direction], self.forward_scans + self.backward_scans):
                nn.init.ones_(direction.conv_weight)
                nn.init.zeros_(direction.conv_bias)

    def forward(self, u_BLD: Tensor) -> Tensor:
        if len(self.orders) > 1 or self.grid_conv is not None:
            return self._many(u_BLD)
        # Tokens of the one walk move where they are narrow: a third of the memory that x, z and y would take, which is
        # 3% of a step of cifar10-fast without convolutions (one thread with AVX2).
        order, pair = cast(TokenOrder, self.orders[0]), (self.forward_scan, self.backward_scan)
        y_BLE = self.scan_both_directions(self.in_proj(order.permute(u_BLD)), *pair)
        return order.unpermute(self.out_proj(y_BLE))

    def _many(self, u_BLD: Tensor) -> Tensor:
        """Several walks, or a convolution over the grid: x and z are made in raster order."""
        xz_BLF = self.in_proj(u_BLD)
        if self.grid_conv is not None:
            x_BLPE, z_BLPE = xz_BLF.unflatten(-1, (self.parts, 2, -1)).unbind(-2)
            x_BLPE = self.grid_conv(x_BLPE.flatten(2)).unflatten(-1, (self.parts, -1))
            xz_BLF = torch.stack([x_BLPE, z_BLPE], dim=-2).flatten(2)
        # Where walks share the channels, each has x and z of its part side by side.
        given = xz_BLF.chunk(self.parts, dim=-1) if self.parts > 1 else [xz_BLF] * len(self.orders)
        pairs = list(zip(self.forward_scans, self.backward_scans, strict=True))
        if self.shared:
            pairs *= len(self.orders)
        scans = zip(cast(Iterable[TokenOrder], self.orders), given, pairs, strict=True)
        ys = [order.unpermute(self.scan_both_directions(order.permute(xz), *pair)) for order, xz, pair in scans]
        mixed: Tensor = self.out_proj(reduce(operator.add, ys) if self.parts == 1 else torch.cat(ys, dim=-1))
        return mixed

    @abstractmethod
    def scan_both_directions(self, xz_BLF: Tensor, forward: nn.Module, backward: nn.Module) -> Tensor:
        """(forward scan of x + backward scan of x) * SiLU(z), (B, L, E) in the order of the walk.

        x and z are the halves of each of the F = 2E channels.
        """

    def flops(self, L: int) -> dict[str, int]:
        D, E = self.out_proj.out_features, self.out_proj.in_features
        count = Counter({"in_proj and out_proj": matmul_flops(L, D, 2 * E) + matmul_flops(L, E, D)})
        walks = len(self.orders) if self.shared else 1
        for direction in walks * cast(list[Direction], self.forward_scans + self.backward_scans):
            count.update(direction.flops(L))
        if self.grid_conv is not None:
            count["grid convolution"] = self.grid_conv.flops()
        return dict(count)


def convolved(x_BLE: Tensor, weight_EK: Tensor, bias_E: Tensor, padding: int = 0) -> Tensor:
    """SiLU of each channel's convolution over the tokens, with zeros for ``padding`` tokens before and after them."""
    # As an image of one row with its channels last, which is how tokens lie in memory: no copy, and half the time.
    row = F.conv2d(x_BLE.mT.unsqueeze(2), weight_EK[:, None, None], bias_E, padding=(0, padding), groups=len(bias_E))
    return F.silu(row.squeeze(2).mT)


def init_conv_and_x_proj(conv_weight_EK: Tensor, conv_bias_E: Tensor, x_proj_RE: Tensor) -> None:
    """PyTorch's default for such layers: uniform(-fan_in^-1/2, fan_in^-1/2)."""
    E, K = conv_weight_EK.shape
    init_uniform(conv_weight_EK, fan_in=K)
    init_uniform(conv_bias_E, fan_in=K)
    init_uniform(x_proj_RE, fan_in=E)


def init_dt_bias(dt_bias: Tensor) -> None:
    """(E,) or (H,): inverse softplus of log-uniform(1e-3, 1e-1), at least 1e-4 (arXiv:2312.00752, section 3.6)."""
    low, high = math.log(1e-3), math.log(1e-1)
    delta = torch.exp(torch.rand(len(dt_bias)) * (high - low) + low).clamp(min=1e-4)
    dt_bias.copy_(delta + torch.log(-torch.expm1(-delta)))


def init_uniform(parameter: Tensor, fan_in: int) -> None:
    """uniform(-fan_in^-1/2, fan_in^-1/2), of any shape."""
    nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)
