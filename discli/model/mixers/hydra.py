"""Hydra: both scans of one input, as one quasi-separable matrix (arXiv:2407.09941)."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from discli.model.flops import matmul_flops
from discli.model.mixers._bidirectional import convolved, init_dt_bias, init_uniform
from discli.model.mixers._shared_input import SharedInputMixer, Walk, scan_flops
from discli.model.order import TokenOrder
from discli.recipe.kinds import HeadDim, MixerSpec, head_width
from discli.recipe.model import ModelSpec
from discli.recipe.spec import PositiveInt
from discli.scan.quasiseparable import Triangle, quasiseparable


class HydraSpec(MixerSpec):
    """Hydra (arXiv:2407.09941): Mamba-2's scan of one input in both directions, and a diagonal of its own."""

    name: Literal["hydra"] = "hydra"
    head_dim: HeadDim = None
    d_conv: Annotated[PositiveInt, Field(le=2**10, description="tokens that the centred convolution sees; odd")] = 7
    chunk: Annotated[PositiveInt, Field(description="most tokens of a chunk: speed and memory, not results")] = 64

    def check(self, model: "ModelSpec") -> None:
        self.check_heads(model.expand * model.embed_dim, self.head_dim)
        if self.d_conv % 2 == 0:
            raise ValueError(f"mixer.d_conv {self.d_conv} must be odd: as many tokens before one as after it")


class HydraWalk(Walk):
    """Both directions of one walk: y = shift(S(x)) + flip(shift(S'(flip(x)))) + D_t x_t (section 3.2).

    S is Mamba-2's scan, h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t with S_t = C_t . h_t, and S' the same
    with a delta, B and C of its own, but one A and one dt_bias, so that ``model.backward_dt_init`` does not matter
    here. What comes of the token itself is left to the diagonal, for shift moves every answer to the next token.
    AdamW decays ``D_weight``, the matrix that makes D_t of x_t, and not D, as Hydra's own code has it.
    """

    def __init__(self, d_inner: int, d_state: int, d_conv: int, head_dim: int, chunk: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.states, self.chunk = d_inner // head_dim, head_dim, d_state, chunk
        self.of_walk = [4 * d_state, 2 * self.heads]  # B and C forward and backward; delta forward and backward
        self.settings = sum(self.of_walk)
        self.conv_weight = nn.Parameter(torch.empty(d_inner + 4 * d_state, d_conv))  # of x, then of B and C
        self.conv_bias = nn.Parameter(torch.empty(d_inner + 4 * d_state))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D_weight = nn.Parameter(torch.empty(self.heads, d_inner))
        self.D = nn.Parameter(torch.empty(self.heads))

    def init_weights(self) -> None:
        """As Hydra's own code: A is -1, D is 1 and its weights are PyTorch's default."""
        init_uniform(self.conv_weight, fan_in=self.conv_weight.shape[1])
        init_uniform(self.conv_bias, fan_in=self.conv_weight.shape[1])
        init_dt_bias(self.dt_bias)
        nn.init.zeros_(self.A_log)
        init_uniform(self.D_weight, fan_in=self.D_weight.shape[1])
        nn.init.ones_(self.D)

    def forward(self, x_BLE: Tensor, settings_BLR: Tensor) -> Tensor:
        E, H, N = x_BLE.shape[-1], self.heads, self.states
        BC, dt = settings_BLR.split(self.of_walk, dim=-1)
        weight, bias, padding = self.conv_weight, self.conv_bias, self.conv_weight.shape[1] // 2
        x_BLE = convolved(x_BLE, weight[:E], bias[:E], padding)
        # Autocast or not, rates and states are float32 or wider: a sum over all tokens goes through them.
        wide = self.dt_bias.dtype
        delta = F.softplus(dt.to(wide).mT.contiguous().unflatten(1, (2, H)) + self.dt_bias.unsqueeze(-1))
        log_a = -delta * torch.exp(self.A_log).unsqueeze(-1)  # (B, 2, H, L)
        BC = convolved(BC, weight[E:], bias[E:], padding).to(wide).mT.contiguous()
        B, C, back_B, back_C = BC.unflatten(1, (4, 1, N)).unbind(1)  # (B, 1, N, L)
        # Shifted, what token t - 1 would answer is the answer at t.
        cs = (F.pad(C, (1, -1)).expand(-1, H, -1, -1), F.pad(back_C, (-1, 1)).expand(-1, H, -1, -1))
        bs = (own.unsqueeze(2) * b for own, b in zip(delta.unbind(1), (B, back_B), strict=True))
        lower, upper = (Triangle(*own) for own in zip(cs, log_a.unbind(1), bs, strict=True))
        diagonal = (F.linear(x_BLE, self.D_weight).to(wide) + self.D).mT
        return quasiseparable(x_BLE.unflatten(-1, (H, -1)), diagonal, lower, upper, self.chunk).flatten(2)

    def flops(self, L: int) -> dict[str, int]:
        C, K = self.conv_weight.shape
        E = self.heads * self.head_dim
        count = Counter({"convolution": matmul_flops(L, K, C), "diagonal": matmul_flops(L, E, self.heads)})
        count.update(scan_flops(L, E, self.heads, self.states, self.chunk))
        return dict(count)


class Hydra(SharedInputMixer):
    """Hydra's mixer on every walk: one projection of everything, B and C of all heads alike, a norm before the gate."""

    spec = HydraSpec

    def __init__(
        self, model: ModelSpec, orders: Sequence[TokenOrder], head_dim: int | None, d_conv: int, chunk: int
    ) -> None:
        d_inner = model.expand * model.embed_dim
        width = head_width(d_inner, head_dim)
        super().__init__(model, orders, lambda: HydraWalk(d_inner, model.d_state, d_conv, width, chunk))
        self.norm = nn.RMSNorm(d_inner, eps=1e-5)
