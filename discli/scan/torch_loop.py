"""The scan as a loop of PyTorch operations with a backward pass written by hand.

What the CPU falls back on without numba, and what runs float64. Autograd would keep several
(B, E, N) tensors per step; this keeps one state per sqrt(L) steps and recomputes the others, a
chunk of sqrt(L) steps at a time.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from discli.scan import reference
from discli.scan.reference import DirectionParams


def bidirectional_scan(x: Tensor, z: Tensor, forward: DirectionParams, backward: DirectionParams) -> Tensor:
    """Everything but the recurrence is `discli.scan.reference`'s."""
    return reference.mix(x, z, forward, backward, lambda *inputs: _recurrence(*inputs)[0])


@torch.library.custom_op("discli::recurrence", mutates_args=())
def _recurrence(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """`discli.scan.reference.recurrence`, and the state before each chunk, (chunks, B, E, N)."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    chunk = _chunk(x.shape[1])
    states = []
    h = x.new_zeros(x.shape[0], *A.shape)
    for t in range(x.shape[1]):
        if t % chunk == 0:
            states.append(h)
        h = torch.addcmul(_input(x, delta, B, t), _decay(delta, A, t), h)
        y[:, t] = torch.einsum("ben,bn->be", h, C[:, t])
    return y.addcmul_(D, x), torch.stack(states)


@torch.library.custom_op("discli::recurrence_backward", mutates_args=())
def _recurrence_backward(
    dy: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the six inputs. With g_t = dL/dh_t = C_t dy_t + decay_{t+1} g_{t+1}, and u_t the
    gradient of delta_t A: u_t = g_t decay_t h_{t-1}."""
    dx, ddelta = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
    dB, dC = (torch.empty_like(B, memory_format=torch.contiguous_format) for _ in range(2))
    dA = torch.zeros_like(A)
    g = x.new_zeros(x.shape[0], *A.shape)
    chunk = _chunk(x.shape[1])
    for first in reversed(range(0, x.shape[1], chunk)):
        steps = range(first, min(first + chunk, x.shape[1]))
        decays = [_decay(delta, A, t) for t in steps]
        h = [states[first // chunk]]
        for decay, t in zip(decays, steps, strict=True):
            h.append(torch.addcmul(_input(x, delta, B, t), decay, h[-1]))
        for t in reversed(steps):
            h_t = h.pop()
            dC[:, t] = torch.einsum("ben,be->bn", h_t, dy[:, t])
            g = torch.addcmul(g, dy[:, t, :, None], C[:, t, None, :])
            dB[:, t] = torch.einsum("ben,be->bn", g, delta[:, t] * x[:, t])
            into_input = torch.einsum("ben,bn->be", g, B[:, t])
            g = g * decays.pop()
            u = g * h[-1]
            dx[:, t] = delta[:, t] * into_input
            ddelta[:, t] = (u * A).sum(-1) + x[:, t] * into_input
            dA += torch.einsum("ben,be->en", u, delta[:, t])
    return dx.addcmul_(D, dy), ddelta, dA, dB, dC, (dy * x).sum((0, 1))


def _chunk(length: int) -> int:
    return math.isqrt(max(length - 1, 0)) + 1


def _decay(delta: Tensor, A: Tensor, t: int) -> Tensor:
    return torch.exp(delta[:, t, :, None] * A)


def _input(x: Tensor, delta: Tensor, B: Tensor, t: int) -> Tensor:
    return (delta[:, t] * x[:, t])[:, :, None] * B[:, t, None, :]


@_recurrence.register_fake
def _(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    length = x.shape[1]
    chunks = -(-length // _chunk(length))
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(chunks, x.shape[0], *A.shape)


@_recurrence_backward.register_fake
def _(
    dy: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, states: Tensor
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, delta, A, B, C, D))


def _save(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: FunctionCtx, dy: Tensor, _dstates: Tensor) -> tuple[Tensor, ...]:
    return tuple(_recurrence_backward(dy, *ctx.saved_tensors))  # type: ignore[attr-defined]


_recurrence.register_autograd(_backward, setup_context=_save)
