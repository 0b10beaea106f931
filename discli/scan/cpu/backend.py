"""The scan on a CPU: numba kernels for float32 and bf16, PyTorch operations for float64 or without numba.

The kernels (`forward`, `backward`) hold 16, 8 or 4 channels in a register and walk L a chunk of
128 steps at a time, both directions by reversed indexing. Memory of a forward and backward pass, beside
inputs, outputs and gradients: x_proj's output and one state per 128 steps, 2 (R + 2N) / E and 2N / 128
tensors of (B, L, E); the weights in the kernels' layout; and what is under way, a chunk of one sample
a thread or, where there are fewer samples, of as many as give each thread three tasks. bf16 rows add
(L, E) float32 sums of those samples, one forward and two backward.

Results are the same to the last bit for any number of threads, and a sample of a batch comes out as
it would alone: every sum has one order, and no BLAS is involved. bfloat16 tensors give
the results of float32 ones, rounded once; float16 tensors are worked on as float32 copies.
"""

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from discli.scan.cpu import torch_loop
from discli.scan.reference import DirectionParams

HAS_NUMBA = importlib.util.find_spec("numba") is not None  # looked for, not imported


def unavailable(device: torch.device) -> str | None:
    """Why tensors on ``device`` can't be scanned here and what to do about it, or None if they can."""
    if device.type != "cpu":
        return f"Its kernels are for tensors on the CPU and these are on {device.type}; use scan = 'auto'."
    return None


def bidirectional_scan(x: Tensor, z: Tensor, forward: DirectionParams, backward: DirectionParams) -> Tensor:
    """x and z (B, L, E) to (B, L, E). See `discli.scan.bidirectional_scan`."""
    if x.dtype == torch.float64 or not HAS_NUMBA:
        return torch_loop.bidirectional_scan(x, z, forward, backward)
    y, _, _ = _scan(x, z, *forward, *backward)
    return y


def bidirectional_scan_of_halves(xz: Tensor, forward: DirectionParams, backward: DirectionParams) -> Tensor:
    """x and z side by side (B, L, 2E) to (B, L, E); the gradient comes in one piece."""
    if xz.dtype == torch.float64 or not HAS_NUMBA:
        x, z = xz.chunk(2, dim=-1)
        return torch_loop.bidirectional_scan(x, z, forward, backward)
    y, _, _ = _scan(xz, None, *forward, *backward)
    return y


# Each parameter is an argument: PyTorch takes lists apart and puts them together in Python, at every call.
_PARAMS = [f"Tensor {side}_{name}" for side in ("forward", "backward") for name in DirectionParams._fields]
_SCHEMA = f"(Tensor x, Tensor? z, {', '.join(_PARAMS)}) -> (Tensor, Tensor, Tensor)"


# Without z, x holds both.
@torch.library.custom_op("discli::cpu_scan", mutates_args=(), device_types="cpu", schema=_SCHEMA)
def _scan(x: Tensor, z: Tensor | None, *params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from discli.scan.cpu.engine import scan_forward

    return scan_forward(x, z, _directions(params))


@torch.library.custom_op("discli::cpu_scan_backward", mutates_args=(), device_types="cpu")
def _scan_backward(
    dy: Tensor, x: Tensor, z: Tensor | None, params: list[Tensor], projected: Tensor, saved: Tensor
) -> list[Tensor]:
    from discli.scan.cpu.engine import scan_backward

    inputs, (forward, backward) = scan_backward(dy, x, z, _directions(params), projected, saved)
    return [*inputs, *forward, *backward]


@_scan.register_fake
def _(x: Tensor, z: Tensor | None, *params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from discli.scan.cpu.layout import Sizes

    sizes = Sizes.of(x, _directions(params)[0])
    state = x.new_empty(sizes.projected_shape, dtype=torch.float32)
    saved = x.new_empty(sizes.saved_shape, dtype=torch.float32)
    return x.new_empty(sizes.batch, sizes.length, sizes.d_inner), state, saved


@_scan_backward.register_fake
def _(dy: Tensor, x: Tensor, z: Tensor | None, params: list[Tensor], projected: Tensor, saved: Tensor) -> list[Tensor]:
    inputs = [x] if z is None else [x, z]
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (*inputs, *params)]


def _directions(params: Sequence[Tensor]) -> list[DirectionParams]:
    half = len(params) // 2
    return [DirectionParams(*params[:half]), DirectionParams(*params[half:])]


def _keep(ctx: FunctionCtx, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, ...]) -> None:
    x, z, *params = inputs
    _, projected, saved = output
    ctx.save_for_backward(x, z, *params, projected, saved)  # type: ignore[arg-type]  # None stays None
    ctx.set_materialize_grads(False)  # or autograd would make zeros as large as all that is kept


def _backward(ctx: FunctionCtx, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * (2 + len(_PARAMS))
    x, z, *params, projected, saved = ctx.saved_tensors  # type: ignore[attr-defined]
    gradients = _scan_backward(dy, x, z, params, projected, saved)
    return tuple(gradients) if z is not None else (gradients[0], None, *gradients[1:])


_scan.register_autograd(_backward, setup_context=_keep)
