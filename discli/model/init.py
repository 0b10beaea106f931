"""The initial values of a DiS."""

import math

import torch
from torch import nn

from discli.model.block import Block


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """As the authors' code does (arXiv:2402.05608).

    Biases of linear layers are 0, embeddings normal(0, 0.02), other weights PyTorch's default. Then every
    module that has an ``init_weights`` sets its own, parts before the whole. At last the ``out_proj`` of
    every mixer and MLP is divided by sqrt(number of these - 1), and ``pos_embed`` is 0.
    """
    model.apply(_initialise_one)
    layers = [module.mixer for module in model.modules() if isinstance(module, Block)]
    for layer in layers:
        layer.get_submodule("out_proj").get_parameter("weight").div_(math.sqrt(max(len(layers) - 1, 1)))
    nn.init.zeros_(model.get_parameter("pos_embed"))


def _initialise_one(module: nn.Module) -> None:
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    elif callable(init_weights := getattr(module, "init_weights", None)):
        init_weights()
