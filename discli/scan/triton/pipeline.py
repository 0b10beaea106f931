"""What surrounds the two walks of a scan on a GPU, whichever kernel walks back: products, convolution, gate, sums.

conv + SiLU of both directions, x_proj and dt_proj as batched matrix products, then softplus, scan, D
skip, sum and gate in one kernel. `discli.scan.triton.kernels` counts what that costs.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from discli.scan.reference import DirectionParams

FUSED: dict[str, Any] = {"enable_fp_fusion": True}  # a b + c in one instruction: Triton 3.10 no longer does so unasked

# Of dy, conv, draw, B and C, A, D, dt_bias and states: dconv, ddraw, dBC_parts (blocks, 2, B * L, 2N) and
# param_parts (B, 2, N + 2, E), rows of dA state by state, dD and ddt_bias; parts still to be added up.
WalkBack = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


def operator(name: str, chunk: int, walk_back: WalkBack) -> Callable[..., list[Tensor]]:
    """``torch.ops.discli.<name>``, of x, z, what `pack` gives and whether a backward pass will follow.

    Returns what `scan_forward` does, with states kept every ``chunk`` steps. Its gradient is
    ``torch.ops.discli.<name>_backward``, by `scan_backward` with ``walk_back``.
    """

    @torch.library.custom_op(f"discli::{name}", mutates_args=())
    def forward(
        x: Tensor,
        z: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor,
        x_proj: Tensor,
        dt_weight: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        needs_grad: bool,
    ) -> list[Tensor]:
        return scan_forward(x, z, (conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D), needs_grad, chunk)

    @forward.register_fake
    def _(x: Tensor, z: Tensor, *params: Any) -> list[Tensor]:
        _, _, x_proj, _, _, A, _, needs_grad = params
        B, L, E = x.shape
        y = x.new_empty(B, L, E)
        if not needs_grad:
            return [y]
        projected, draw = x.new_empty(2, B * L, x_proj.shape[1]), x.new_empty(2, B * L, E)
        states = A.new_empty(_states_shape(x, A, chunk))
        return [y, x.new_empty(B, L, E), x.new_empty(2, B, L, E), projected, draw, states]

    @torch.library.custom_op(f"discli::{name}_backward", mutates_args=())
    def backward(
        dout: Tensor,
        x: Tensor,
        z: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor,
        x_proj: Tensor,
        dt_weight: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        y_sum: Tensor,
        conv: Tensor,
        projected: Tensor,
        draw: Tensor,
        states: Tensor,
    ) -> list[Tensor]:
        params = (conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D)
        return scan_backward(walk_back, dout, x, z, params, (y_sum, conv, projected, draw, states))

    @backward.register_fake
    def _(dout: Tensor, *inputs: Tensor) -> list[Tensor]:
        return [t.new_empty(t.shape) for t in inputs[:9]]

    def keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        ctx.set_materialize_grads(False)
        if inputs[-1]:
            ctx.save_for_backward(*inputs[:-1], *output[1:])

    def gradients(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        dout = grads[0]
        if dout is None:
            return (None,) * 10
        return (*backward(dout, *ctx.saved_tensors), None)

    forward.register_autograd(gradients, setup_context=keep)
    return forward


def scan(
    operator: Callable[..., list[Tensor]], x: Tensor, z: Tensor, forward: DirectionParams, backward: DirectionParams
) -> Tensor:
    """y (B, L, E) of the operator for unpacked parameters."""
    params = pack(forward, backward, x.dtype)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (x, z, *params))
    return operator(x, z, *params, needs_grad)[0]


def pack(forward: DirectionParams, backward: DirectionParams, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Both directions' parameters as the kernels want them, each with a leading axis of 2.

    conv_weight (2, K, E), conv_bias (2, E), x_proj (2, 2N + R, E) with rows B, C, dt, dt_weight
    (2, E, R), dt_bias (2, E), A (2, E, N), D (2, E). N is padded to a power of two of at least 4 and R
    to a multiple of 8, with rows of zeros: a state with B = C = 0 stays 0.
    """
    state = _state_dtype(dtype)
    N = forward.A_log.shape[1]
    R = forward.dt_weight.shape[1]
    N_padded = padded_states(N)
    R_padded = -(-R // 8) * 8

    def projection(p: DirectionParams) -> Tensor:
        dt, B, C = torch.split(p.x_proj, [R, N, N])
        return torch.cat([_pad_rows(B, N_padded), _pad_rows(C, N_padded), _pad_rows(dt, R_padded)])

    both = (forward, backward)
    A_log = torch.stack([p.A_log for p in both]).to(state)
    dt_weight = torch.stack([p.dt_weight for p in both]).to(dtype)
    return (
        torch.stack([p.conv_weight.t() for p in both]).to(state),
        torch.stack([p.conv_bias for p in both]).to(state),
        torch.stack([projection(p) for p in both]).to(dtype),
        F.pad(dt_weight, (0, R_padded - R)) if R_padded > R else dt_weight,
        torch.stack([p.dt_bias for p in both]).to(state),
        -torch.exp(F.pad(A_log, (0, N_padded - N)) if N_padded > N else A_log),
        torch.stack([p.D for p in both]).to(state),
    )


def padded_states(N: int) -> int:
    return max(4, 1 << (N - 1).bit_length())


def _pad_rows(weight: Tensor, rows: int) -> Tensor:
    return F.pad(weight, (0, 0, 0, rows - weight.shape[0])) if rows > weight.shape[0] else weight


def scan_forward(x: Tensor, z: Tensor, params: Sequence[Tensor], needs_grad: bool, chunk: int) -> list[Tensor]:
    """[y], or when the backward pass will follow [y, y_sum, conv, projected, draw, states].

    y_sum (B, L, E) is y before the gate, conv (2, B, L, E) the convolved and SiLU'd x, projected
    (2, B * L, 2N + R) holds B, C and dt, draw (2, B * L, E) is delta before bias and softplus, and
    states (2, B, chunks, N / 4, E, 4) the state before each ``chunk`` steps.
    """
    from discli.scan.triton import kernels

    conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D = params
    x, z = _unit_stride(x), _unit_stride(z)
    conv_weight, conv_bias, dt_bias, A, D = (t.contiguous() for t in (conv_weight, conv_bias, dt_bias, A, D))
    B, L, E = x.shape
    N = A.shape[2]
    state = triton_dtype(A.dtype)
    y, y_sum, conv = x.new_empty(B, L, E), x.new_empty(B, L, E), x.new_empty(2, B, L, E)
    states = A.new_empty(_states_shape(x, A, chunk) if needs_grad else 0)
    with torch.autocast(x.device.type, enabled=False), _on(x.device):
        kernels.conv_silu[(B * cdiv(L, 32) * cdiv(E, 64),)](
            x, conv_weight, conv_bias, conv, L, E, B, x.stride(0), x.stride(1),
            K=conv_weight.shape[1], TOKENS=32, BLOCK=64, STATE=state, num_warps=1, **FUSED,
        )  # fmt: skip
        projected = torch.bmm(conv.view(2, B * L, E), x_proj.mT)
        draw = torch.bmm(projected[..., 2 * N :], dt_weight.mT)
        kernels.scan_forward[(B * cdiv(E, kernels.LANES * kernels.CHANNELS_PER_LANE),)](
            conv, draw, _B_and_C(projected, A), z, A, D, dt_bias, y_sum, y, states,
            L, E, B, z.stride(0), z.stride(1),
            N=N, LANES=kernels.LANES, CHANNELS_PER_LANE=kernels.CHANNELS_PER_LANE, CHUNK=chunk,
            SAVE=needs_grad, STATE=state, BC_AHEAD=N <= 16 and kernels.bc_ahead(), num_warps=kernels.SCAN_WARPS,
            maxnreg=kernels.SCAN_REGISTERS if N <= 16 and A.dtype == torch.float32 else None, **FUSED,
        )  # fmt: skip
    return [y, y_sum, conv, projected, draw, states] if needs_grad else [y]


def scan_backward(
    walk_back: WalkBack, dout: Tensor, x: Tensor, z: Tensor, params: Sequence[Tensor], kept: Sequence[Tensor]
) -> list[Tensor]:
    """The gradients of x, z and ``params``, in that order and in their dtypes, all contiguous.

    ``kept`` is what `scan_forward` returned behind y.
    """
    from discli.scan.triton import kernels_backward as kernels

    conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D = params
    y_sum, conv, projected, draw, states = kept
    x, z, dout = _unit_stride(x), _unit_stride(z), dout.contiguous()
    conv_weight, conv_bias, dt_bias, A, D = (t.contiguous() for t in (conv_weight, conv_bias, dt_bias, A, D))
    B, L, E = x.shape
    N = A.shape[2]
    K = conv_weight.shape[1]
    state = triton_dtype(A.dtype)
    with torch.autocast(x.device.type, enabled=False), _on(x.device):
        dy, dz = torch.empty_like(dout), torch.empty_like(dout)
        kernels.gate_backward[(cdiv(B * L, 16) * cdiv(E, 64),)](
            dout, z, y_sum, dy, dz, L, E, B * L, z.stride(0), z.stride(1),
            ROWS=16, BLOCK=64, STATE=state, **FUSED,
        )  # fmt: skip

        BC = _B_and_C(projected, A)
        dconv, ddraw, dBC_parts, param_parts = walk_back(dy, conv, draw, BC, A, D, dt_bias, states)
        dA, dD, ddt_bias = torch.split(_sum(param_parts, A.dtype), [N, 1, 1], dim=1)

        dBC = _sum(dBC_parts, x.dtype)
        dprojected = torch.cat([dBC, torch.bmm(ddraw, dt_weight)], dim=-1)
        ddt_weight = torch.bmm(ddraw.mT, projected[..., 2 * N :])
        dx_proj = torch.bmm(dprojected.mT, conv.view(2, B * L, E))
        dconv.view(2, B * L, E).baddbmm_(dprojected, x_proj)

        dx = torch.empty_like(dout)
        conv_parts = A.new_empty(B * cdiv(L, 64), 2, K + 1, E)
        kernels.conv_backward[(B * cdiv(L, 64) * cdiv(E, 64),)](
            dconv, x, conv_weight, conv_bias, dx, conv_parts, L, E, B, x.stride(0), x.stride(1),
            K=K, TOKENS=64, BLOCK=64, STATE=state, num_warps=1, **FUSED,
        )  # fmt: skip
        dconv_weight, dconv_bias = torch.split(_sum(conv_parts, A.dtype), [K, 1], dim=1)
    return [
        dx,
        dz,
        dconv_weight.contiguous(),
        dconv_bias.squeeze(1).contiguous(),
        dx_proj,
        ddt_weight,
        ddt_bias.squeeze(1).contiguous(),
        dA.mT.contiguous(),
        dD.squeeze(1).contiguous(),
    ]


def _sum(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum over the first axis, in an order that depends on nothing but its length."""
    from discli.scan.triton import kernels_backward as kernels

    total = parts.new_empty(parts.shape[1:], dtype=dtype)
    size = total.numel()
    kernels.sum_partials[(cdiv(size, 128),)](
        parts, total, parts.shape[0], size, PARTS=16, BLOCK=128, STATE=triton_dtype(parts.dtype)
    )
    return total


def _B_and_C(projected: Tensor, A: Tensor) -> Tensor:
    """Rows of B and C, N numbers each, in the state's dtype: converted once instead of once per channel."""
    return projected[..., : 2 * A.shape[2]].to(A.dtype).contiguous()


def _states_shape(x: Tensor, A: Tensor, chunk: int) -> tuple[int, ...]:
    _, E, N = A.shape
    return 2, x.shape[0], 2 * cdiv((x.shape[1] + 1) // 2, chunk), N // 4, E, 4


def _unit_stride(x: Tensor) -> Tensor:
    """x, copied unless its channels are neighbours and one sample fits the kernels' 32-bit offsets."""
    return x if x.stride(2) == 1 and x.shape[1] * x.stride(1) < 2**31 else x.contiguous()


def _state_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def triton_dtype(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return {torch.float32: tl.float32, torch.float64: tl.float64}[dtype]


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def cdiv(a: int, b: int) -> int:
    return -(-a // b)
