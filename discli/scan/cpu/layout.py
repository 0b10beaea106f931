"""How the CPU kernels want their tensors: whole vectors of channels, weights in the order of use."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from discli.scan.cpu.job import BLOCK, CHUNK, GROUP
from discli.scan.cpu.lanes import LANES
from discli.scan.reference import DirectionParams

_LOG2_E = 1 / math.log(2)


@dataclass(frozen=True)
class Sizes:
    """The shape of a problem, and what it becomes with padding."""

    batch: int
    length: int
    d_inner: int
    d_state: int
    d_conv: int
    dt_rank: int

    @classmethod
    def of(cls, x: Tensor, p: DirectionParams) -> "Sizes":
        """x is (B, L, E), or (B, L, 2E) with z beside it."""
        batch, length, _ = x.shape
        d_inner = p.conv_weight.shape[0]
        return cls(batch, length, d_inner, p.A_log.shape[1], p.conv_weight.shape[1], p.dt_weight.shape[1])

    @cached_property
    def width(self) -> int:
        return _up_to_multiple(self.d_inner, BLOCK * LANES)

    @cached_property
    def row_width(self) -> int:
        """Of x, z, y and their gradients, which are copied where it is not ``d_inner``."""
        return _up_to_multiple(self.d_inner, LANES)

    @cached_property
    def states(self) -> int:
        return _up_to_multiple(self.d_state, 2)

    @cached_property
    def rank_columns(self) -> int:
        return _up_to_multiple(self.dt_rank, LANES)

    @cached_property
    def columns(self) -> int:
        """Of x_proj's output: dt, padding, B, C, padding."""
        return _up_to_multiple(self.rank_columns + 2 * self.states, LANES)

    @cached_property
    def groups(self) -> int:
        """Of channels; one group is one task."""
        return -(-self.width // (GROUP * LANES))

    @cached_property
    def projected_shape(self) -> tuple[int, ...]:
        return (2, self.batch, self.length, self.columns)

    @cached_property
    def saved_shape(self) -> tuple[int, ...]:
        """Both directions' state before every chunk but the first."""
        return (2, self.batch, max(self.length - 1, 0) // CHUNK, self.width * self.states)

    @cached_property
    def gradient_rows(self) -> dict[str, int]:
        """What the kernels leave of one direction's gradients: rows of ``width`` floats, in this order."""
        weights = {"ddt_weight": self.dt_rank, "dx_proj": self.columns, "dconv_weight": self.d_conv}
        return {"drate": self.states, "dskip": 1, "ddt_bias": 1, **weights, "dconv_bias": 1}


def dtype_of_rows(x: Tensor, z: Tensor) -> torch.dtype:
    """What the kernels read and write for these two: bf16 as it is, float32 in place of anything else."""
    return torch.bfloat16 if x.dtype == z.dtype == torch.bfloat16 else torch.float32


def to_rows(tensor_BLE: Tensor, sizes: Sizes, dtype: torch.dtype) -> Tensor:
    """In ``dtype``, padded with zeros, neighbouring channels side by side; a copy only where needed."""
    rows = _pad(tensor_BLE.to(dtype), (0, sizes.row_width - sizes.d_inner))
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """(B, L, padded E) to the shape and dtype of ``like``; (B, L, 2, padded E) to twice that, side by side."""
    return rows[..., : like.shape[-1]].to(like.dtype).contiguous().flatten(2)


def pack_for_forward(p: DirectionParams, sizes: Sizes) -> dict[str, Tensor]:
    """One direction's parameters under the names of `job`, contiguous float32."""
    return {**_pack(p, sizes), "x_proj_in": _x_proj(p, sizes, sizes.rank_columns, sizes.columns).t().contiguous()}


def pack_for_backward(p: DirectionParams, sizes: Sizes) -> dict[str, Tensor]:
    """As `pack_for_forward`, with the projections the other way round."""
    dt_out = _pad(p.dt_weight.float(), (0, sizes.rank_columns - sizes.dt_rank, 0, sizes.width - sizes.d_inner))
    return {
        **_pack(p, sizes),
        "x_proj_out": _x_proj(p, sizes, sizes.dt_rank, sizes.dt_rank + 2 * sizes.states),
        "dt_out": dt_out.contiguous(),
    }


def _pack(p: DirectionParams, sizes: Sizes) -> dict[str, Tensor]:
    p = DirectionParams(*(t.float() for t in p))
    E, N = sizes.width - sizes.d_inner, sizes.states - sizes.d_state
    decay_rate = _pad(torch.exp(p.A_log).mul_(-_LOG2_E), (0, N, 0, E))  # exp(delta A) = 2^(delta rate)
    packed = {
        "conv_weight": _pad(p.conv_weight.t(), (0, E)),
        "conv_bias": _pad(p.conv_bias, (0, E)),
        "dt_in": _pad(p.dt_weight.t(), (0, E)),
        "dt_bias": _pad(p.dt_bias, (0, E)),
        "decay_rate": decay_rate.reshape(-1, LANES, sizes.states).transpose(1, 2),
        "skip": _pad(p.D, (0, E)),
    }
    return {name: tensor.contiguous() for name, tensor in packed.items()}


def _x_proj(p: DirectionParams, sizes: Sizes, rank: int, count: int) -> Tensor:
    """``count`` rows: ``rank`` for dt, then B and C and padding; no copy where nothing is to be padded."""
    E, N = sizes.width - sizes.d_inner, sizes.states - sizes.d_state
    x_proj = p.x_proj.float()
    if rank == sizes.dt_rank and N == 0:
        rows = _pad(x_proj, (0, E))
    else:
        dt, B, C = torch.split_with_sizes(x_proj, [sizes.dt_rank, sizes.d_state, sizes.d_state])
        rows = torch.cat([_pad(dt, (0, E, 0, rank - sizes.dt_rank)), _pad(B, (0, E, 0, N)), _pad(C, (0, E, 0, N))])
    return _pad(rows, (0, 0, 0, count - len(rows))).contiguous()


def unpack_gradients(rows: Tensor, p: DirectionParams, sizes: Sizes) -> DirectionParams:
    """The gradients of one direction's parameters from the kernels' ``gradient_rows``; none shares memory."""
    E, N, R = sizes.d_inner, sizes.d_state, sizes.dt_rank
    found = dict(zip(sizes.gradient_rows, rows.split_with_sizes(list(sizes.gradient_rows.values())), strict=True))
    drate_EN = found["drate"].view(-1, sizes.states, LANES).transpose(1, 2).reshape(sizes.width, -1)[:E, :N]
    dx_proj = found["dx_proj"][:, :E]
    B, C = sizes.rank_columns, sizes.rank_columns + sizes.states
    made = DirectionParams(
        conv_weight=_copy(found["dconv_weight"][:, :E].t()),
        conv_bias=_copy(found["dconv_bias"][0, :E]),
        x_proj=torch.cat([dx_proj[:R], dx_proj[B : B + N], dx_proj[C : C + N]]),
        dt_weight=_copy(found["ddt_weight"][:, :E].t()),
        dt_bias=_copy(found["ddt_bias"][0, :E]),
        A_log=torch.exp(p.A_log.float()).neg_().mul_(drate_EN).contiguous(),
        D=_copy(found["dskip"][0, :E]),
    )
    return DirectionParams(*(gradient.to(t.dtype) for gradient, t in zip(made, p, strict=True)))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _pad(tensor: Tensor, amounts: tuple[int, ...]) -> Tensor:
    return F.pad(tensor, amounts) if any(amounts) else tensor  # F.pad copies even for nothing


def _up_to_multiple(count: int, of: int) -> int:
    return -(-count // of) * of
