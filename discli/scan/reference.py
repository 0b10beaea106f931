"""The bidirectional selective scan, written to be read: the oracle for every other backend.

Everything is plain PyTorch under autograd. Time steps are taken apart with ``unbind``, because
indexing ``[:, :, t]`` in a loop makes the backward pass quadratic in the sequence length.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class DirectionParams(NamedTuple):
    """What one direction of the mixer learns. E = d_inner, N = d_state, K = d_conv, R = dt_rank."""

    conv_weight: Tensor  # (E, K), depthwise and causal
    conv_bias: Tensor  # (E,)
    x_proj: Tensor  # (R + 2N, E): rows for dt, then B, then C
    dt_weight: Tensor  # (E, R)
    dt_bias: Tensor  # (E,)
    A_log: Tensor  # (E, N), A = -exp(A_log)
    D: Tensor  # (E,), the skip past the state


Recurrence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def unavailable(device: torch.device) -> str | None:
    """Runs wherever PyTorch does."""
    return None


def bidirectional_scan(x: Tensor, z: Tensor, forward: DirectionParams, backward: DirectionParams) -> Tensor:
    """x and z (B, L, E) to (B, L, E). See `discli.scan.bidirectional_scan`."""
    return mix(x, z, forward, backward, recurrence)


def mix(x: Tensor, z: Tensor, forward: DirectionParams, backward: DirectionParams, recurrence: Recurrence) -> Tensor:
    """All of `bidirectional_scan` around a given `recurrence`; x and z (B, L, E) to (B, L, E)."""
    y_forward = _one_direction(x, forward, recurrence)
    y_backward = _one_direction(x.flip(1), backward, recurrence).flip(1)
    return ((y_forward + y_backward) * F.silu(_wide(z))).to(x.dtype)


def _one_direction(x_BLE: Tensor, params: DirectionParams, recurrence: Recurrence) -> Tensor:
    """Conv, SiLU, projections, recurrence and D skip, in token order. (B, L, E) float32 or float64."""
    x_BLE = _wide(x_BLE)
    p = DirectionParams(*(t.to(x_BLE.dtype) for t in params))
    N = p.A_log.shape[1]
    R = p.dt_weight.shape[1]
    K = p.conv_weight.shape[1]

    causal = F.pad(x_BLE.transpose(1, 2), (K - 1, 0))
    conv = F.conv1d(causal, p.conv_weight.unsqueeze(1), p.conv_bias, groups=p.conv_weight.shape[0])
    x_BLE = F.silu(conv).transpose(1, 2)

    dt_BLR, B_BLN, C_BLN = torch.split(F.linear(x_BLE, p.x_proj), [R, N, N], dim=-1)
    delta_BLE = F.softplus(_wide(F.linear(dt_BLR, p.dt_weight)) + p.dt_bias)
    return recurrence(_wide(x_BLE), delta_BLE, -torch.exp(p.A_log), _wide(B_BLN), _wide(C_BLN), p.D)


def recurrence(x_BLE: Tensor, delta_BLE: Tensor, A_EN: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_E: Tensor) -> Tensor:
    """The selective scan of Mamba (arXiv:2312.00752, eq. 2 with algorithm 2's discretisation).

    h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t;  y_t = C_t . h_t + D x_t.  Returns (B, L, E).
    """
    h_BEN = x_BLE.new_zeros(x_BLE.shape[0], *A_EN.shape)
    ys = []
    for x, delta, B, C in zip(x_BLE.unbind(1), delta_BLE.unbind(1), B_BLN.unbind(1), C_BLN.unbind(1), strict=True):
        decay = torch.exp(delta.unsqueeze(-1) * A_EN)
        h_BEN = decay * h_BEN + (delta * x).unsqueeze(-1) * B.unsqueeze(1)
        ys.append((h_BEN * C.unsqueeze(1)).sum(-1))
    return torch.stack(ys, dim=1) + D_E * x_BLE


def _wide(tensor: Tensor) -> Tensor:
    """The state is float32 whatever the input, and float64 when x is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
