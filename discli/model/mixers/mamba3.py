"""A bidirectional mixer with the scan of Mamba-3 (arXiv:2603.15569)."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.mixers._bidirectional import init_dt_bias
from discli.model.mixers._shared_input import SharedInputMixer, Walk, scan_flops
from discli.model.order import TokenOrder
from discli.recipe.kinds import HeadDim, MixerSpec, head_width
from discli.recipe.model import ModelSpec
from discli.recipe.spec import Fraction, PositiveInt
from discli.scan.quasiseparable import Triangle, quasiseparable

# The slowest rate, and what is added to a mean square before its root, as the authors' code has them.
_SLOWEST = 1e-4
_EPS = 1e-5
# Operations on a state that rotates: two products and a sum.
_ROTATION = 3


class Mamba3Spec(MixerSpec):
    """The scan of Mamba-3 in both directions (arXiv:2603.15569): trapezoidal rule, rotating states, no convolution."""

    name: Literal["mamba3"] = "mamba3"
    head_dim: HeadDim = None
    rotating: Annotated[Fraction, Field(description="share of the states that rotate, in pairs; 0: none")] = 0.5
    chunk: Annotated[PositiveInt, Field(description="most tokens of a chunk: speed and memory, not results")] = 64

    def check(self, model: "ModelSpec") -> None:
        self.check_heads(model.expand * model.embed_dim, self.head_dim)
        if self.rotating and not rotating_pairs(model.d_state, self.rotating):
            raise ValueError(
                f"mixer.rotating {self.rotating:g} of d_state {model.d_state} is not one pair of states:"
                " use more states, or 0"
            )


def rotating_pairs(d_state: int, rotating: float) -> int:
    """Pairs of states that rotate."""
    return int(d_state * rotating) // 2


class Mamba3Walk(Walk):
    """Both directions of one walk. Numbers of the forward direction come first, then the backward's.

    h_t = exp(delta_t A_t) R_t h_{t-1} + (1 - lambda_t) delta_t exp(delta_t A_t) R_t B_{t-1} x_{t-1}
    + lambda_t delta_t B_t x_t,  y_t = C_t . h_t,  in each head and channel, with R_t a rotation of pairs of
    states by delta_t theta_t (propositions on the exponential-trapezoidal rule and on complex states). In
    coordinates that rotate along, B and C are turned back by the sum of the angles so far and R_t is gone. x_s then
    enters all later states with one weight, lambda_s delta_s + (1 - lambda_{s+1}) delta_{s+1}, and its own
    with the first summand alone: what `quasiseparable` computes, with one diagonal.
    """

    def __init__(self, d_inner: int, d_state: int, head_dim: int, pairs: int, chunk: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.states = d_inner // head_dim, head_dim, d_state
        self.pairs, self.chunk = pairs, chunk
        # For each direction: B, C, and for each head delta, A and lambda; the heads share the angles.
        self.of_direction = [d_state, d_state, self.heads, self.heads, self.heads, pairs]
        self.settings = 2 * sum(self.of_direction)
        self.dt_bias = nn.Parameter(torch.empty(2 * self.heads))
        self.BC_norm = nn.Parameter(torch.empty(2 * 2 * d_state))  # B's in both directions, then C's
        self.BC_bias = nn.Parameter(torch.empty(2 * 2 * self.heads * d_state))
        self.D = nn.Parameter(torch.empty(self.heads))  # of both directions: they have the same x

    def init_weights(self) -> None:
        """As Mamba-3's own code: the biases of B and C are 1, and so is D."""
        init_dt_bias(self.dt_bias)
        for ones in (self.BC_norm, self.BC_bias, self.D):
            nn.init.ones_(ones)

    def forward(self, x_BLE: Tensor, settings_BLR: Tensor) -> Tensor:
        H, N = self.heads, self.states
        # Autocast or not, rates, angles and states are float32 or wider: a sum over all tokens goes through them.
        wide_BRL = settings_BLR.to(self.dt_bias.dtype).mT.contiguous()
        B, C, dt, rate, trapezoid, theta = wide_BRL.unflatten(1, (2, -1)).split(self.of_direction, dim=2)

        delta = F.softplus(dt + self.dt_bias.view(2, H, 1))  # (B, 2, H, L)
        # 1 + r above zero and 1 / (1 - r) below: positive, and steep nowhere.
        log_a = -delta * (rate.clamp(min=0) + 1 / (1 - rate.clamp(max=0))).clamp(min=_SLOWEST)
        now = torch.sigmoid(trapezoid) * delta
        with_next = now + _next(delta - now)

        (weight_B, weight_C), (bias_B, bias_C) = self.BC_norm.view(2, 2, N, 1), self.BC_bias.view(2, 2, H, N, 1)
        B = _normed(B, weight_B).unsqueeze(2) + bias_B  # (B, 2, H, N, L)
        C = _normed(C, weight_C).unsqueeze(2) + bias_C
        diagonal = self.D.unsqueeze(-1) + (now * (B * C).sum(3)).sum(1)
        # The matrix's entries have the rates between two tokens, the recurrence also the later one's.
        B, C = B * with_next.unsqueeze(3), C * log_a.exp().unsqueeze(3)
        if self.pairs:
            angles = _angles(delta.unsqueeze(3) * (math.pi * torch.tanh(theta)).unsqueeze(2))
            cos, sin = angles.cos(), angles.sin()
            B, C = _rotate(B, cos, sin), _rotate(C, cos, sin)
        lower, upper = (Triangle(*own) for own in zip(C.unbind(1), log_a.unbind(1), B.unbind(1), strict=True))
        return quasiseparable(x_BLE.unflatten(-1, (H, -1)), diagonal, lower, upper, self.chunk).flatten(2)

    def flops(self, L: int) -> dict[str, int]:
        count = scan_flops(L, self.heads * self.head_dim, self.heads, self.states, self.chunk)
        count["scan"] += _ROTATION * L * 4 * self.heads * 2 * self.pairs
        return count


def _normed(t_B2NL: Tensor, weight_2N1: Tensor) -> Tensor:
    """RMSNorm over the states."""
    return t_B2NL * torch.rsqrt(t_B2NL.square().mean(2, keepdim=True) + _EPS) * weight_2N1


def _next(t_B2HL: Tensor) -> Tensor:
    """What the token has that the scan visits next: the one after, and backward the one before; at the end 0."""
    forward, backward = t_B2HL.unbind(1)
    return torch.stack([F.pad(forward, (-1, 1)), F.pad(backward, (1, -1))], dim=1)


def _angles(turns_B2HSL: Tensor) -> Tensor:
    """By how much B and C are turned back: all turns so far, and backward, but for a constant, all from the end on."""
    forward, backward = turns_B2HSL.cumsum(-1).unbind(1)
    return torch.stack([-forward, F.pad(backward, (1, -1))], dim=1)


def _rotate(t_B2HNL: Tensor, cos_B2HSL: Tensor, sin_B2HSL: Tensor) -> Tensor:
    """State i with state S + i by the angle i, for the first S pairs."""
    S = cos_B2HSL.shape[3]
    one, other, still = t_B2HNL.split([S, S, t_B2HNL.shape[3] - 2 * S], dim=3)
    turned = [one * cos_B2HSL - other * sin_B2HSL, one * sin_B2HSL + other * cos_B2HSL]
    return torch.cat([*turned, still], dim=3)


class BidirectionalMamba3(SharedInputMixer):
    """Mamba-3's mixer (SISO) with a scan in each direction of every walk, behind one gate.

    As in the authors' code: one projection of everything, B and C common to all heads but for their biases,
    rates that depend on the token, and no norm before ``out_proj``. Both directions have the same x, so that
    they share D.
    """

    spec = Mamba3Spec

    def __init__(
        self, model: ModelSpec, orders: Sequence[TokenOrder], head_dim: int | None, rotating: float, chunk: int
    ) -> None:
        d_inner, pairs = model.expand * model.embed_dim, rotating_pairs(model.d_state, rotating)
        width = head_width(d_inner, head_dim)
        super().__init__(model, orders, lambda: Mamba3Walk(d_inner, model.d_state, width, pairs, chunk))
        self.zero_backward_dt = model.backward_dt_init == "authors"

    def init_weights(self) -> None:
        """After those of the walks: ``backward_dt_init="authors"`` as in the other mixers."""
        if self.zero_backward_dt:
            for walk in self.walks:
                nn.init.zeros_(walk.get_parameter("dt_bias").chunk(2)[1])
