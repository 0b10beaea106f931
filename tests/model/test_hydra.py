"""Hydra against its two shifted scans, token by token, and against the matrix that they make."""

import pytest
import torch
from torch.nn import functional as F

from discli.runtime.errors import DiscliError
from tests.model.small import small, small_recipe

HEADS = {"name": "hydra", "head_dim": 16, "chunk": 4}


def mixer_of(d_state=3, **settings):
    """In float64, with every parameter away from its initial value."""
    torch.manual_seed(0)
    mixer = small(mixer=HEADS | settings, d_state=d_state).double().blocks[2].mixer
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def prepared(mixer, u_LD):
    """z, x (L, H, P), the diagonal (L, H), and of each direction (C, delta, B), after the convolution."""
    walk, E = mixer.walks[0], mixer.out_proj.in_features
    H, N, L, K = walk.heads, walk.states, len(u_LD), walk.conv_weight.shape[1]
    z, x_and_BC, dt = (u_LD @ mixer.in_proj.weight.T).split([E, E + 4 * N, 2 * H], dim=-1)
    padded = torch.cat([u_LD.new_zeros(K // 2, E + 4 * N), x_and_BC, u_LD.new_zeros(K // 2, E + 4 * N)])
    heard = [(padded[t : t + K].T * walk.conv_weight).sum(1) + walk.conv_bias for t in range(L)]
    x, B, C, back_B, back_C = F.silu(torch.stack(heard)).split([E, N, N, N, N], dim=-1)
    delta, back_delta = (torch.log1p(torch.exp(one + walk.dt_bias)) for one in dt.chunk(2, dim=-1))
    diagonal = x @ walk.D_weight.T + walk.D
    return z, x.unflatten(-1, (H, -1)), diagonal, (C, delta, B), (back_C, back_delta, back_B)


def scan(x_LHP, A_H, C_LN, delta_LH, B_LN):
    """Mamba-2's."""
    h = x_LHP.new_zeros(*x_LHP.shape[1:], B_LN.shape[1])
    ys = []
    for x, C, delta, B in zip(x_LHP, C_LN, delta_LH, B_LN, strict=True):
        h = torch.exp(delta * A_H)[:, None, None] * h + (delta[:, None] * x)[..., None] * B
        ys.append(h @ C)
    return torch.stack(ys)


def shift(y):
    return torch.cat([torch.zeros_like(y[:1]), y[:-1]])


def by_scans(mixer, u_LD):
    """arXiv:2407.09941, section 3.2."""
    z, x, diagonal, forward, backward = prepared(mixer, u_LD)
    A = -mixer.walks[0].A_log.exp()
    y = shift(scan(x, A, *forward)) + shift(scan(x.flip(0), A, *(t.flip(0) for t in backward))).flip(0)
    return finished(mixer, y + diagonal.unsqueeze(-1) * x, z)


def by_matrix(mixer, u_LD):
    """The quasi-separable matrix of each head, entry by entry."""
    z, x, diagonal, (C, delta, B), (back_C, back_delta, back_B) = prepared(mixer, u_LD)
    L, A = len(x), -mixer.walks[0].A_log.exp()
    y = []
    for k in range(x.shape[1]):
        rows = []
        for t in range(L):
            before = [torch.exp(A[k] * delta[s + 1 : t, k].sum()) * delta[s, k] * (C[t - 1] @ B[s]) for s in range(t)]
            after = [
                torch.exp(A[k] * back_delta[t + 1 : s, k].sum()) * back_delta[s, k] * (back_C[t + 1] @ back_B[s])
                for s in range(t + 1, L)
            ]
            rows.append(torch.stack([*before, diagonal[t, k], *after]))
        y.append(torch.stack(rows) @ x[:, k])
    return finished(mixer, torch.stack(y, dim=1), z)


def finished(mixer, y, z):
    y = y.flatten(1)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight
    return (y * z * torch.sigmoid(z)) @ mixer.out_proj.weight.T


@pytest.mark.parametrize("written_out", [by_scans, by_matrix])
@pytest.mark.parametrize(("L", "chunk"), [(2, 64), (11, 4), (11, 64), (13, 1), (16, 8)])
def test_it_is_its_two_scans_and_their_matrix_and_so_are_its_gradients(L, chunk, written_out):
    mixer = mixer_of(chunk=chunk)
    torch.manual_seed(L)
    u = torch.randn(1, L, 32, dtype=torch.float64, requires_grad=True)
    back = torch.randn(L, 32, dtype=torch.float64)
    leaves = [u, *mixer.parameters()]
    ours, expected = (
        [y.detach(), *torch.autograd.grad((y * back).sum(), leaves)] for y in (mixer(u)[0], written_out(mixer, u[0]))
    )
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_gradients_equal_finite_differences():
    u = torch.randn(1, 5, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixer_of(chunk=3), (u,), fast_mode=True)


@torch.no_grad()
def test_in_float32_and_bf16_it_is_near():
    """To 1e-5 of the largest value over 258 tokens, and within bf16's own error."""
    mixer = mixer_of(d_state=16, chunk=64)
    u = torch.randn(1, 258, 32, dtype=torch.float64)
    wide, narrow = mixer(u), mixer.float()(u.float())
    assert (narrow - wide).abs().max() < 1e-5 * wide.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        half = mixer(u.float())
    assert half.dtype == torch.bfloat16
    assert (half - narrow).norm() < 0.02 * narrow.norm()


@torch.no_grad()
def test_tokens_in_reverse_come_out_in_reverse_where_both_directions_are_alike():
    mixer = mixer_of()
    walk, E, N = mixer.walks[0], mixer.out_proj.in_features, 3
    taps = walk.conv_weight
    taps.copy_((taps + taps.flip(1)) / 2)
    rows = mixer.in_proj.weight[2 * E :]
    for both in (rows[: 4 * N], rows[4 * N :], taps[E:], walk.conv_bias[E:]):
        forward, backward = both.chunk(2)
        backward.copy_(forward)
    u = torch.randn(2, 11, 32, dtype=torch.float64)
    torch.testing.assert_close(mixer(u.flip(1)), mixer(u).flip(1), rtol=1e-10, atol=1e-10)


def test_initial_values():
    torch.manual_seed(0)
    model = small(mixer={"name": "hydra", "head_dim": 1}, scan_order="four", depth=1)
    for walk in model.blocks[0].mixer.walks:
        assert torch.equal(walk.A_log, torch.zeros(64))
        assert torch.equal(walk.D, torch.ones(64))
        assert 0 < walk.conv_weight.abs().max() <= 7**-0.5
        delta = F.softplus(walk.dt_bias)
        assert delta.min() >= 0.99e-3
        assert delta.max() <= 1.01e-1


def test_an_even_convolution_is_refused():
    with pytest.raises(DiscliError, match="d_conv 4") as refused:
        small_recipe(mixer={"name": "hydra", "d_conv": 4})
    assert "odd" in f"{refused.value}"
