"""The token mixer: a bidirectional Mamba (arXiv:2402.05608, section 3.1; Vision Mamba, arXiv:2401.09417)."""

import math

import torch
from torch import Tensor, nn

from discli.scan import DirectionParams, bidirectional_scan


class Direction(nn.Module):
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

    def params(self) -> DirectionParams:
        return DirectionParams(
            self.conv_weight, self.conv_bias, self.x_proj, self.dt_weight, self.dt_bias, self.A_log, self.D
        )


class BidirectionalMamba(nn.Module):
    """(B, L, D) to (B, L, D): each token hears all others, at a cost linear in L."""

    def __init__(self, embed_dim: int, d_state: int, d_conv: int, expand: int, scan: str) -> None:
        super().__init__()
        d_inner = expand * embed_dim
        dt_rank = math.ceil(embed_dim / 16)
        self.scan = scan
        self.in_proj = nn.Linear(embed_dim, 2 * d_inner, bias=False)
        self.forward_scan = Direction(d_inner, d_state, d_conv, dt_rank)
        self.backward_scan = Direction(d_inner, d_state, d_conv, dt_rank)
        self.out_proj = nn.Linear(d_inner, embed_dim, bias=False)

    def forward(self, u_BLD: Tensor) -> Tensor:
        x_BLE, z_BLE = self.in_proj(u_BLD).chunk(2, dim=-1)
        y_BLE = bidirectional_scan(x_BLE, z_BLE, self.forward_scan.params(), self.backward_scan.params(), self.scan)
        mixed: Tensor = self.out_proj(y_BLE)
        return mixed
