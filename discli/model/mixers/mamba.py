"""The mixer of the paper: a bidirectional Mamba (arXiv:2402.05608, section 3.1; Vision Mamba, arXiv:2401.09417)."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from discli.model.flops import matmul_flops
from discli.model.mixers._bidirectional import BidirectionalMixer, init_conv_and_x_proj, init_dt_bias, init_uniform
from discli.model.order import TokenOrder
from discli.recipe.kinds import MixerSpec, WalksShare
from discli.recipe.model import ModelSpec
from discli.scan import DirectionParams, bidirectional_scan_of_halves

# Operations of the recurrence, for each token, channel and state: delta*A, exp, two for decay*h + input,
# (delta*x)*B, two for C*h summed over the states.
_RECURRENCE = 7


class MambaSpec(MixerSpec):
    """Mamba's selective scan in both directions: the paper's choice. ``scan`` picks what computes it."""

    name: Literal["mamba"] = "mamba"
    uses_scan: ClassVar[bool] = True
    convolves: ClassVar[bool] = True
    walks_may_share: ClassVar[tuple[WalksShare, ...]] = ("nothing", "parameters", "channels")


class SSMDirection(nn.Module):
    """What one direction of the scan learns; shapes as in `discli.scan.DirectionParams`."""

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int) -> None:
        super().__init__()
        self.conv_weight = nn.Parameter(torch.empty(d_inner, d_conv))
        self.conv_bias = nn.Parameter(torch.empty(d_inner))
        self.x_proj = nn.Parameter(torch.empty(dt_rank + 2 * d_state, d_inner))
        self.dt_weight = nn.Parameter(torch.empty(d_inner, dt_rank))
        self.dt_bias = nn.Parameter(torch.empty(d_inner))
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state))
        self.D = nn.Parameter(torch.empty(d_inner))

    def init_weights(self) -> None:
        """As Mamba's (arXiv:2312.00752, section 3.6): A_log is log(1..N) in every channel, D is 1."""
        d_inner, d_state = self.A_log.shape
        init_conv_and_x_proj(self.conv_weight, self.conv_bias, self.x_proj)
        init_uniform(self.dt_weight, fan_in=self.dt_weight.shape[1])
        init_dt_bias(self.dt_bias)
        self.A_log.copy_(torch.log(torch.arange(1, d_state + 1)).expand(d_inner, d_state))
        nn.init.ones_(self.D)

    def params(self) -> DirectionParams:
        """For `discli.scan.bidirectional_scan`."""
        return DirectionParams(
            self.conv_weight, self.conv_bias, self.x_proj, self.dt_weight, self.dt_bias, self.A_log, self.D
        )

    def flops(self, L: int) -> dict[str, int]:
        """Of L tokens, by part."""
        (E, K), N, R = self.conv_weight.shape, self.A_log.shape[1], self.dt_weight.shape[1]
        return {
            "convolution": matmul_flops(L, K, E),
            "x_proj and dt_proj": matmul_flops(L, E, R + 2 * N) + matmul_flops(L, R, E),
            "scan": _RECURRENCE * L * E * N,
        }


class BidirectionalMamba(BidirectionalMixer):
    """Mamba's selective scan (arXiv:2312.00752): every channel has states and rates of its own."""

    spec = MambaSpec

    def __init__(self, model: ModelSpec, orders: Sequence[TokenOrder]) -> None:
        channels, dt_rank = model.scan_channels, math.ceil(model.embed_dim / 16)
        super().__init__(model, orders, lambda: SSMDirection(channels, model.d_state, model.scan_taps, dt_rank))
        self.scan = model.scan

    def scan_both_directions(self, xz_BLF: Tensor, forward: nn.Module, backward: nn.Module) -> Tensor:
        assert isinstance(forward, SSMDirection)
        assert isinstance(backward, SSMDirection)
        return bidirectional_scan_of_halves(xz_BLF, forward.params(), backward.params(), self.scan)
