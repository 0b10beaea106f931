"""Quasi-separable products in chunks against the matrix itself, written out entry by entry."""

import pytest
import torch

from discli.scan.quasiseparable import Triangle, quasiseparable


def matrix(diagonal_L, lower, upper):
    """(L, L) of one head: arXiv:2407.09941, definition of quasi-separable matrices; c and b (L, N), log_a (L,)."""
    L = len(diagonal_L)
    rows = []
    for t in range(L):
        row = []
        for s in range(L):
            if s == t:
                row.append(diagonal_L[t])
            else:
                c, log_a, b = lower if s < t else upper
                row.append(c[t] @ b[s] * log_a[min(s, t) + 1 : max(s, t)].sum().exp())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def expected(x, diagonal, lower, upper):
    y = torch.empty_like(x)
    for batch in range(x.shape[0]):
        for head in range(x.shape[2]):
            triangles = ([c[batch, head].T, log_a[batch, head], b[batch, head].T] for c, log_a, b in (lower, upper))
            y[batch, :, head] = matrix(diagonal[batch, head], *triangles) @ x[batch, :, head]
    return y


def inputs(L, H=2, P=3, N=4, batch=2, dtype=torch.float64):
    torch.manual_seed(L)

    def triangle():
        c, b = torch.randn(2, batch, H, N, L, dtype=dtype)
        return [c, -torch.rand(batch, H, L, dtype=dtype), b]

    x, diagonal = torch.randn(batch, L, H, P, dtype=dtype), torch.randn(batch, H, L, dtype=dtype)
    return [x, diagonal, *triangle(), *triangle()]


def call(chunk, x, diagonal, *generators):
    return quasiseparable(x, diagonal, Triangle(*generators[:3]), Triangle(*generators[3:]), chunk)


@pytest.mark.parametrize("chunk", [1, 3, 8, 64])
@pytest.mark.parametrize("L", [1, 2, 7, 8, 18, 25])
def test_chunks_of_any_length_equal_the_matrix(L, chunk):
    tensors = inputs(L)
    x, diagonal, *generators = tensors
    y = expected(x, diagonal, generators[:3], generators[3:])
    torch.testing.assert_close(call(chunk, *tensors), y, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("chunk", [2, 5])
def test_gradients_equal_finite_differences(chunk):
    tensors = [tensor.requires_grad_() for tensor in inputs(5, H=2, P=2, N=2, batch=1)]
    assert torch.autograd.gradcheck(lambda *given: call(chunk, *given), tensors)


def test_in_float32_it_is_near():
    """To 1e-5 of the largest value, over 300 tokens."""
    wide = inputs(300, P=16, N=16)
    y = call(64, *wide)
    narrow = call(64, *(tensor.float() for tensor in wide))
    assert (narrow - y).abs().max() < 1e-5 * y.abs().max()


def test_decays_that_forget_at_once_overflow_nowhere():
    x, diagonal, *generators = inputs(33, dtype=torch.float32)
    for place in (1, 4):
        generators[place] = (300 * generators[place] - 200).requires_grad_()
    y = call(16, x, diagonal, *generators)
    y.sum().backward()
    assert all(generators[place].grad.isfinite().all() for place in (1, 4))
    # Neighbours alone are heard: nothing lies strictly between them.
    c_low, _, b_low, c_up, _, b_up = (tensor.movedim(-1, 1) for tensor in generators)
    neighbours = diagonal.mT.unsqueeze(-1) * x
    neighbours[:, 1:] += (c_low[:, 1:] * b_low[:, :-1]).sum(-1, keepdim=True) * x[:, :-1]
    neighbours[:, :-1] += (c_up[:, :-1] * b_up[:, 1:]).sum(-1, keepdim=True) * x[:, 1:]
    torch.testing.assert_close(y, neighbours)
