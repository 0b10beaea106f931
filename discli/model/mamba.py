"""The mixer of the paper: a bidirectional Mamba (arXiv:2402.05608, section 3.1; Vision Mamba, arXiv:2401.09417)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from discli.model.bidirectional import BidirectionalMixer
from discli.model.order import Path
from discli.recipe.model import ModelSpec
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


class BidirectionalMamba(BidirectionalMixer):
    """Mamba's selective scan (arXiv:2312.00752): every channel has states and rates of its own."""

    def __init__(self, model: ModelSpec, paths: Sequence[Path]) -> None:
        d_inner = model.expand * model.embed_dim
        dt_rank = math.ceil(model.embed_dim / 16)
        super().__init__(
            model.embed_dim, d_inner, lambda: Direction(d_inner, model.d_state, model.d_conv, dt_rank), paths
        )
        self.scan = model.scan

    def both_ways(self, x_BLE: Tensor, z_BLE: Tensor, forward: nn.Module, backward: nn.Module) -> Tensor:
        assert isinstance(forward, Direction)
        assert isinstance(backward, Direction)
        return bidirectional_scan(x_BLE, z_BLE, forward.params(), backward.params(), self.scan)
