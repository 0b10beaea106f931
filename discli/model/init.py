"""Every initial value of a DiS, in one function."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from discli.model.conditioning import GatedModulation
from discli.model.mixer import BidirectionalMamba, Direction
from discli.model.skip import GatedSkip


@torch.no_grad()
def initialise(model: nn.Module, backward_dt_init: Literal["like-forward", "authors"]) -> None:
    """As the authors' code does (arXiv:2402.05608; the mixer's as in Mamba, arXiv:2312.00752, section 3.6).

    ================================  ==========================================================
    A_log (E, N)                      log(1..N) in every channel
    D (E)                             1
    dt_weight (E, R)                  uniform(-R^-1/2, R^-1/2)
    dt_bias (E)                       inverse softplus of log-uniform(1e-3, 1e-1), at least 1e-4
    conv, in_proj, x_proj             PyTorch's default: uniform(-fan_in^-1/2, fan_in^-1/2)
    out_proj                          the same / sqrt(number of blocks - 1)
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
    mixers = [module for module in model.modules() if isinstance(module, BidirectionalMamba)]
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, GatedSkip):
            nn.init.zeros_(module.gate)
        elif isinstance(module, Direction):
            _initialise_direction(module)
        elif isinstance(module, GatedModulation):
            nn.init.zeros_(module.linear.weight)
    for mixer in mixers:
        mixer.out_proj.weight /= math.sqrt(max(len(mixers) - 1, 1))
        if backward_dt_init == "authors":
            nn.init.zeros_(mixer.backward_scan.dt_bias)
    nn.init.zeros_(model.get_parameter("pos_embed"))


def _initialise_direction(direction: Direction) -> None:
    d_inner, d_state = direction.A_log.shape
    _uniform(direction.conv_weight, fan_in=direction.conv_weight.shape[1])
    _uniform(direction.conv_bias, fan_in=direction.conv_weight.shape[1])
    _uniform(direction.x_proj, fan_in=d_inner)
    _uniform(direction.dt_weight, fan_in=direction.dt_weight.shape[1])
    low, high = math.log(1e-3), math.log(1e-1)
    delta = torch.exp(torch.rand(d_inner) * (high - low) + low).clamp(min=1e-4)
    direction.dt_bias.copy_(delta + torch.log(-torch.expm1(-delta)))
    direction.A_log.copy_(torch.log(torch.arange(1, d_state + 1)).expand(d_inner, d_state))
    nn.init.ones_(direction.D)


def _uniform(parameter: Tensor, fan_in: int) -> None:
    nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)
