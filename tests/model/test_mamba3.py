"""Mamba-3 against its recurrence, one token after another, as arXiv:2603.15569 has it."""

import math

import pytest
import torch
from torch.nn import functional as F

from discli.runtime.errors import DiscliError
from tests.model.small import small, small_recipe

HEADS = {"name": "mamba3", "head_dim": 16, "chunk": 4}


def mixer_of(d_state=6, block=2, **settings):
    """In float64, with every parameter away from its initial value."""
    torch.manual_seed(0)
    mixer = small(mixer=HEADS | settings, d_state=d_state).double().blocks[block].mixer
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def turned(h_PN, angles):
    """State i by the angle i towards state S + i, in every channel."""
    S = len(angles)
    turn = torch.eye(h_PN.shape[-1], dtype=h_PN.dtype)
    for i, angle in enumerate(angles):
        turn[i, i], turn[i, S + i] = angle.cos(), -angle.sin()
        turn[S + i, i], turn[S + i, S + i] = angle.sin(), angle.cos()
    return h_PN @ turn.T


def one_direction(walk, x_LHP, own_LR, number):
    """One direction of one sample, without D: the forward one is number 0, and tokens come in the scan's order."""
    H, N, S = walk.heads, walk.states, walk.pairs
    dt_bias = walk.dt_bias.view(2, H)[number]
    weight_B, weight_C = walk.BC_norm.view(2, 2, N)[:, number]
    bias_B, bias_C = walk.BC_bias.view(2, 2, H, N)[:, number]

    def norm(v):
        return v / (v.square().mean() + 1e-5).sqrt()

    ys = []
    h = x_LHP.new_zeros(H, x_LHP.shape[-1], N)
    before = torch.zeros_like(h)
    for x_HP, own in zip(x_LHP, own_LR, strict=True):
        B, C, dt, rate, trapezoid, theta = own.split([N, N, H, H, H, S])
        B, C = norm(B) * weight_B, norm(C) * weight_C
        now, states = [], []
        y = []
        for k in range(H):
            delta = torch.log1p(torch.exp(dt[k] + dt_bias[k]))
            A = -(1 + rate[k] if rate[k] > 0 else 1 / (1 - rate[k]))
            alpha, lam = torch.exp(delta * A), torch.sigmoid(trapezoid[k])
            angles = delta * math.pi * torch.tanh(theta)
            now.append(x_HP[k].outer(B + bias_B[k]))
            kept = alpha * turned(h[k], angles) + (1 - lam) * delta * alpha * turned(before[k], angles)
            states.append(kept + lam * delta * now[k])
            y.append(states[k] @ (C + bias_C[k]))
        h, before = torch.stack(states), torch.stack(now)
        ys.append(torch.stack(y))
    return torch.stack(ys)


def recurrence(mixer, u_LD):
    """The mixer on one sample with one walk in raster order."""
    walk, E = mixer.walks[0], mixer.out_proj.in_features
    z, x, own = (u_LD @ mixer.in_proj.weight.T).split([E, E, walk.settings], dim=-1)
    forward, backward = own.chunk(2, dim=-1)
    x = x.unflatten(-1, (walk.heads, -1))
    y = one_direction(walk, x, forward, 0) + one_direction(walk, x.flip(0), backward.flip(0), 1).flip(0)
    y = (y + walk.D[:, None] * x).flatten(1)
    return (y * z * torch.sigmoid(z)) @ mixer.out_proj.weight.T


@pytest.mark.parametrize("rotating", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("L", "chunk"), [(1, 4), (2, 64), (11, 4), (11, 64), (13, 1), (16, 8)])
def test_it_is_its_recurrence_both_ways_and_so_are_its_gradients(L, chunk, rotating):
    mixer = mixer_of(chunk=chunk, rotating=rotating)
    torch.manual_seed(L)
    found = []
    u = torch.randn(1, L, 32, dtype=torch.float64, requires_grad=True)
    back = torch.randn(L, 32, dtype=torch.float64)
    for y in (mixer(u)[0], recurrence(mixer, u[0])):
        parameters = dict(mixer.named_parameters())
        gradients = torch.autograd.grad((y * back).sum(), [u, *parameters.values()], allow_unused=L == 1)
        found.append([y.detach(), *(torch.zeros(()) if g is None else g for g in gradients)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


def test_gradients_equal_finite_differences():
    mixer = mixer_of(d_state=4, chunk=3)
    u = torch.randn(1, 5, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixer, (u,), fast_mode=True)


@torch.no_grad()
def test_in_float32_it_is_near():
    """To 2e-5 of the largest value over 258 tokens, those of 256 patches and two conditions."""
    mixer = mixer_of(d_state=16, chunk=64)
    u = torch.randn(1, 258, 32, dtype=torch.float64)
    wide = mixer(u)
    assert (mixer.float()(u.float()) - wide).abs().max() < 2e-5 * wide.abs().max()


@torch.no_grad()
def test_under_bf16_it_is_within_bf16s_own_error():
    mixer = mixer_of(d_state=16, chunk=64).float()
    u = torch.randn(1, 66, 32)
    with torch.autocast("cpu", torch.bfloat16):
        half = mixer(u)
    assert half.dtype == torch.bfloat16
    exact = mixer(u)
    assert (half - exact).norm() < 0.02 * exact.norm()


@torch.no_grad()
def test_tokens_in_reverse_come_out_in_reverse_where_both_directions_are_alike():
    mixer = mixer_of()
    walk = mixer.walks[0]
    own = mixer.in_proj.weight[2 * mixer.out_proj.in_features :]
    for both in (own, walk.dt_bias, *walk.BC_norm.chunk(2), *walk.BC_bias.chunk(2)):
        forward, backward = both.chunk(2)
        backward.copy_(forward)
    u = torch.randn(2, 11, 32, dtype=torch.float64)
    torch.testing.assert_close(mixer(u.flip(1)), mixer(u).flip(1), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_every_token_hears_every_other_and_the_neighbour_at_once():
    mixer = mixer_of()
    u = torch.randn(1, 9, 32, dtype=torch.float64)
    other = u.clone()
    other[0, 4] += 1
    assert (mixer(other) != mixer(u)).any(-1).all()


def test_initial_values():
    torch.manual_seed(0)
    for backward_init in ("like-forward", "authors"):
        model = small(mixer={"name": "mamba3", "head_dim": 1}, backward_dt_init=backward_init, scan_order="four")
        for walk in model.blocks[0].mixer.walks:
            assert all(torch.equal(p, torch.ones_like(p)) for p in (walk.D, walk.BC_norm, walk.BC_bias))
            forward, backward = walk.dt_bias.chunk(2)
            delta = F.softplus(forward if backward_init == "authors" else walk.dt_bias)
            assert delta.min() >= 0.99e-3
            assert delta.max() <= 1.01e-1
            assert torch.equal(backward, torch.zeros(64)) == (backward_init == "authors")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mixer": {"name": "mamba3", "head_dim": 48}}, ["mixer.head_dim 48", "64", "mamba3"]),
        ({"mixer": "mamba3", "d_state": 3}, ["mixer.rotating 0.5", "d_state 3"]),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(settings, says):
    with pytest.raises(DiscliError) as refused:
        small_recipe(**settings)
    assert all(part in f"{refused.value}" for part in says)
    assert small_recipe(mixer={"name": "mamba3", "rotating": 0.0}, d_state=3)
