"""The scan in PyTorch operations with a backward pass written by hand.

What the CPU falls back on without numba, and what runs float64. A chunk of sqrt(L) steps at a time is
computed whole, but for one operation per step. Autograd would keep several (B, E, N) tensors per step;
this keeps one state per chunk and recomputes the others.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from discli.scan import reference
from discli.scan.reference import DirectionParams


def bidirectional_scan(x: Tensor, z: Tensor, forward: DirectionParams, backward: DirectionParams) -> Tensor:
    """x and z (B, L, E) to (B, L, E). Everything but the recurrence is `discli.scan.reference`'s."""
    return reference.mix(x, z, forward, backward, lambda *inputs: _recurrence(*inputs)[0])


@torch.library.custom_op("discli::recurrence", mutates_args=())
def _recurrence(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """`discli.scan.reference.recurrence`, and the state before each chunk, (chunks, B, E, N)."""
    y, states = torch.empty_like(x, memory_format=torch.contiguous_format), []
    h = x.new_zeros(x.shape[0], *A.shape)
    for chunk in _chunks(x.shape[1]):
        states.append(h)
        _, h_BTEN = _walk(x[:, chunk], delta[:, chunk], A, B[:, chunk], h)
        y[:, chunk] = _over_states(h_BTEN, C[:, chunk])
        h = h_BTEN[:, -1].clone()
    return y.addcmul_(D, x), torch.stack(states)


@torch.library.custom_op("discli::recurrence_backward", mutates_args=())
def _recurrence_backward(
    dy: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the six inputs. With g_t = dL/dh_t = C_t dy_t + decay_{t+1} g_{t+1} and u_t the
    gradient of delta_t A: u_t = g_t decay_t h_{t-1}."""
    dx, ddelta, dB, dC = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, delta, B, C))
    dA = torch.zeros_like(A)
    g_next = x.new_zeros(x.shape[0], *A.shape)  # decay_{t+1} g_{t+1} for the last t of a chunk
    for chunk, h_before in reversed(list(zip(_chunks(x.shape[1]), states, strict=True))):
        x_BTE, delta_BTE, B_BTN, dy_BTE = x[:, chunk], delta[:, chunk], B[:, chunk], dy[:, chunk]
        decay, h = _walk(x_BTE, delta_BTE, A, B_BTN, h_before)
        dC[:, chunk] = _over_channels(h, dy_BTE)

        g = dy_BTE.unsqueeze(-1) * C[:, chunk].unsqueeze(2)
        g[:, -1] += g_next
        for t in range(g.shape[1] - 2, -1, -1):
            g[:, t].addcmul_(decay[:, t + 1], g[:, t + 1])
        dB[:, chunk] = _over_channels(g, delta_BTE * x_BTE)
        dsource = _over_states(g, B_BTN)

        u = g.mul_(decay)
        g_next = u[:, 0].clone()
        u[:, 1:].mul_(h[:, :-1])
        u[:, 0].mul_(h_before)
        dx[:, chunk] = delta_BTE * dsource
        ddelta[:, chunk] = (u * A).sum(-1).addcmul_(x_BTE, dsource)
        dA += u.mul_(delta_BTE.unsqueeze(-1)).sum((0, 1))
    return dx.addcmul_(D, dy), ddelta, dA, dB, dC, (dy * x).sum((0, 1))


def _walk(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states of one chunk, both (B, T, E, N), from the state before it."""
    decay = torch.exp(delta.unsqueeze(-1) * A)
    states = (delta * x).unsqueeze(-1) * B.unsqueeze(2)
    for t in range(states.shape[1]):
        h = states[:, t].addcmul_(decay[:, t], h)
    return decay, states


def _over_states(h_BTEN: Tensor, C_BTN: Tensor) -> Tensor:
    return torch.matmul(h_BTEN, C_BTN.unsqueeze(-1)).squeeze(-1)


def _over_channels(h_BTEN: Tensor, dy_BTE: Tensor) -> Tensor:
    return torch.matmul(dy_BTE.unsqueeze(2), h_BTEN).squeeze(2)


def _chunks(length: int) -> list[slice]:
    steps = math.isqrt(max(length - 1, 0)) + 1
    return [slice(start, min(start + steps, length)) for start in range(0, length, steps)]


@_recurrence.register_fake
def _(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    states = x.new_empty(len(_chunks(x.shape[1])), x.shape[0], *A.shape)
    return torch.empty_like(x, memory_format=torch.contiguous_format), states


@_recurrence_backward.register_fake
def _(
    dy: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, states: Tensor
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, delta, A, B, C, D))


def _save(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)  # or autograd would make zeros as large as the states


def _backward(ctx: FunctionCtx, dy: Tensor | None, _dstates: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 6
    return tuple(_recurrence_backward(dy, *ctx.saved_tensors))  # type: ignore[attr-defined]


_recurrence.register_autograd(_backward, setup_context=_save)
