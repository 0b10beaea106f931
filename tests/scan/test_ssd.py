"""Mamba-2's scan in chunks against its recurrence, one token after another."""

import pytest
import torch

from discli.scan.ssd import ssd


def _recurrence(x, delta, A, B, C):
    batch, L, H, P = x.shape
    y = torch.zeros_like(x)
    for b in range(batch):
        for head in range(H):
            h = torch.zeros(P, B.shape[-1], dtype=x.dtype)
            for t in range(L):
                h = torch.exp(delta[b, t, head] * A[head]) * h + delta[b, t, head] * torch.outer(x[b, t, head], B[b, t])
                y[b, t, head] = h @ C[b, t]
    return y


def _inputs(L, H=2, P=3, N=4, batch=2, dtype=torch.float64):
    torch.manual_seed(L)
    delta = torch.rand(batch, L, H, dtype=dtype)
    A = -torch.rand(H, dtype=dtype) - 0.1
    x, B, C = (torch.randn(batch, L, *size, dtype=dtype) for size in ((H, P), (N,), (N,)))
    return x, delta, A, B, C


@pytest.mark.parametrize("chunk", [1, 3, 8, 64])
@pytest.mark.parametrize("L", [1, 7, 8, 18, 25])
def test_chunks_of_any_length_equal_the_recurrence(L, chunk):
    inputs = _inputs(L)
    torch.testing.assert_close(ssd(*inputs, chunk), _recurrence(*inputs), rtol=1e-11, atol=1e-11)


def test_gradients_equal_finite_differences():
    inputs = [tensor.requires_grad_() for tensor in _inputs(5, H=2, P=2, N=2, batch=1)]
    assert torch.autograd.gradcheck(lambda *tensors: ssd(*tensors, 2), inputs)


def test_rates_that_forget_at_once_overflow_nowhere():
    """exp of what lies above the diagonal would be infinite: masked afterwards, its gradient is not a number."""
    x, delta, A, B, C = _inputs(33, dtype=torch.float32)
    A = (300 * A).requires_grad_()
    y = ssd(x, delta + 1, A, B, C, 16)
    y.sum().backward()
    assert A.grad.isfinite().all()
    now = (delta + 1).unsqueeze(-1) * x * (B * C).sum(-1)[..., None, None]
    torch.testing.assert_close(y, now)
