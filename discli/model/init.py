"""Every initial value of a DiS, in one function."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from discli.model.attention import Attention, Mlp
from discli.model.bidirectional import BidirectionalMixer
from discli.model.conditioning import GatedModulation
from discli.model.mamba import Direction
from discli.model.mamba2 import Mamba2Direction
from discli.model.skip import GatedSkip


@torch.no_grad()
def initialise(model: nn.Module, backward_dt_init: Literal["like-forward", "authors"]) -> None:
    """As the authors' code does (arXiv:2402.05608; the mixer's as in Mamba, arXiv:2312.00752, section 3.6).

    ================================  ==========================================================
    A_log (E, N)                      log(1..N) in every channel
    A_log (H) of mamba2               log of uniform(1, 16) (arXiv:2405.21060's code)
    D (E or H)                        1
    dt_weight (E, R)                  uniform(-R^-1/2, R^-1/2)
    dt_bias (E or H)                  inverse softplus of log-uniform(1e-3, 1e-1), at least 1e-4
    conv, in_proj, x_proj, qkv        PyTorch's default: uniform(-fan_in^-1/2, fan_in^-1/2)
    out_proj                          the same / sqrt(number of mixers and MLPs - 1)
    class and other embeddings        normal(0, 0.02)
    pos_embed                         0
    gate of a skip (D)                0: half of it is let through
    modulation of adaln-zero          0
    other linear biases               0
    other weights                     PyTorch's default
    ================================  ==========================================================

    ``backward_dt_init="authors"`` keeps their oversight: the backward direction's dt_bias is 0,
    which makes its delta about 0.69 instead of 0.001 to 0.1.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, GatedSkip):
            nn.init.zeros_(module.gate)
        elif isinstance(module, Direction):
            _initialise_direction(module)
        elif isinstance(module, Mamba2Direction):
            _initialise_mamba2_direction(module)
        elif isinstance(module, GatedModulation):
            nn.init.zeros_(module.linear.weight)
    layers = [module for module in model.modules() if isinstance(module, BidirectionalMixer | Attention | Mlp)]
    for layer in layers:
        layer.out_proj.weight /= math.sqrt(max(len(layers) - 1, 1))
        if isinstance(layer, BidirectionalMixer) and backward_dt_init == "authors":
            for direction in layer.backward_scans:
                nn.init.zeros_(direction.get_parameter("dt_bias"))
    nn.init.zeros_(model.get_parameter("pos_embed"))


def _initialise_direction(direction: Direction) -> None:
    d_inner, d_state = direction.A_log.shape
    _initialise_conv_and_x_proj(direction)
    _uniform(direction.dt_weight, fan_in=direction.dt_weight.shape[1])
    _initialise_dt_bias(direction.dt_bias)
    direction.A_log.copy_(torch.log(torch.arange(1, d_state + 1)).expand(d_inner, d_state))
    nn.init.ones_(direction.D)


def _initialise_mamba2_direction(direction: Mamba2Direction) -> None:
    _initialise_conv_and_x_proj(direction)
    _initialise_dt_bias(direction.dt_bias)
    direction.A_log.copy_(torch.empty_like(direction.A_log).uniform_(1, 16).log())
    nn.init.ones_(direction.D)


def _initialise_conv_and_x_proj(direction: Direction | Mamba2Direction) -> None:
    d_inner, d_conv = direction.conv_weight.shape
    _uniform(direction.conv_weight, fan_in=d_conv)
    _uniform(direction.conv_bias, fan_in=d_conv)
    _uniform(direction.x_proj, fan_in=d_inner)


def _initialise_dt_bias(dt_bias: Tensor) -> None:
    low, high = math.log(1e-3), math.log(1e-1)
    delta = torch.exp(torch.rand(len(dt_bias)) * (high - low) + low).clamp(min=1e-4)
    dt_bias.copy_(delta + torch.log(-torch.expm1(-delta)))


def _uniform(parameter: Tensor, fan_in: int) -> None:
    nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)
