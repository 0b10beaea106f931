"""A bidirectional mixer with the scan of Mamba-2 (arXiv:2405.21060)."""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.flops import matmul_flops
from discli.model.mixers._bidirectional import (
    CHUNK_MASK,
    BidirectionalMixer,
    convolved,
    init_conv_and_x_proj,
    init_dt_bias,
)
from discli.model.order import TokenOrder
from discli.recipe.kinds import HeadDim, MixerSpec, WalksShare, head_width
from discli.recipe.model import ModelSpec
from discli.recipe.spec import PositiveInt
from discli.scan.ssd import ssd


class Mamba2Spec(MixerSpec):
    """The scan of Mamba-2 in both directions (arXiv:2405.21060): one rate for all channels of a head."""

    name: Literal["mamba2"] = "mamba2"
    convolves: ClassVar[bool] = True
    walks_may_share: ClassVar[tuple[WalksShare, ...]] = ("nothing", "parameters", "channels")
    head_dim: HeadDim = None
    chunk: Annotated[PositiveInt, Field(description="most tokens of a chunk: speed and memory, not results")] = 64

    def check(self, model: "ModelSpec") -> None:
        self.check_heads(model.scan_channels, self.head_dim)


class Mamba2Direction(nn.Module):
    """Convolution, SiLU and scan of (B, L, E), with one rate, one delta and one D for each of H heads."""

    def __init__(self, d_inner: int, d_state: int, d_conv: int, head_dim: int, chunk: int) -> None:
        super().__init__()
        heads = d_inner // head_dim
        self.sizes = [heads, d_state, d_state]
        self.chunk = chunk
        self.conv_weight = nn.Parameter(torch.empty(d_inner, d_conv))
        self.conv_bias = nn.Parameter(torch.empty(d_inner))
        self.x_proj = nn.Parameter(torch.empty(sum(self.sizes), d_inner))  # rows for delta, then B, then C
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))

    def init_weights(self) -> None:
        """As Mamba-2's own code: A_log is log of uniform(1, 16), D is 1."""
        init_conv_and_x_proj(self.conv_weight, self.conv_bias, self.x_proj)
        init_dt_bias(self.dt_bias)
        self.A_log.copy_(torch.empty_like(self.A_log).uniform_(1, 16).log())
        nn.init.ones_(self.D)

    def forward(self, x_BLE: Tensor) -> Tensor:
        """(B, L, E) to (B, L, E), float32 or wider."""
        causal = F.pad(x_BLE, (0, 0, self.conv_weight.shape[1] - 1, 0))
        x_BLE = convolved(causal, self.conv_weight, self.conv_bias)
        dt_BLH, B_BLN, C_BLN = F.linear(x_BLE, self.x_proj).split(self.sizes, dim=-1)
        # Autocast or not, rates and states are float32 or wider: a sum over all tokens goes through them.
        delta_BLH = F.softplus(dt_BLH.to(self.dt_bias.dtype) + self.dt_bias)
        x_BLHP = x_BLE.to(delta_BLH.dtype).unflatten(-1, (len(self.A_log), -1))
        y_BLHP: Tensor = ssd(x_BLHP, delta_BLH, -torch.exp(self.A_log), B_BLN, C_BLN, self.chunk)
        y_BLHP = y_BLHP + self.D.unsqueeze(-1) * x_BLHP
        return y_BLHP.flatten(2)

    def flops(self, L: int) -> dict[str, int]:
        """Of L tokens, by part."""
        (E, K), (H, N, _) = self.conv_weight.shape, self.sizes
        chunks = math.ceil(L / self.chunk)
        Q = math.ceil(L / chunks)
        products = matmul_flops(Q, N, Q) + matmul_flops(Q, Q, E) + 2 * matmul_flops(Q, N, E)
        return {
            "convolution": matmul_flops(L, K, E),
            "x_proj": matmul_flops(L, E, H + 2 * N),
            "products of the scan": chunks * products,
            "scan": chunks * (CHUNK_MASK * H * Q * Q + 2 * E * N),
        }


class BidirectionalMamba2(BidirectionalMixer):
    """The paper's mixer with another scan, so that the two differ in nothing else.

    Of Mamba-2 these are the heads and the chunked scan, with B and C common to all heads. Not taken
    over are its block's single projection of delta, B and C beside x, and its norm before ``out_proj``.
    """

    spec = Mamba2Spec

    def __init__(self, model: ModelSpec, orders: Sequence[TokenOrder], head_dim: int | None, chunk: int) -> None:
        channels = model.scan_channels

        def direction() -> Mamba2Direction:
            return Mamba2Direction(channels, model.d_state, model.scan_taps, head_width(channels, head_dim), chunk)

        super().__init__(model, orders, direction)

    def scan_both_directions(self, xz_BLF: Tensor, forward: nn.Module, backward: nn.Module) -> Tensor:
        x_BLE, z_BLE = xz_BLF.chunk(2, dim=-1)
        y_BLE: Tensor = forward(x_BLE) + backward(x_BLE.flip(1)).flip(1)
        return (y_BLE * F.silu(z_BLE.to(y_BLE.dtype))).to(x_BLE.dtype)
