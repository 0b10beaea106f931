"""How much arithmetic one forward pass is, part by part: what utilisation and ``GFLOPs`` columns are made of."""

from collections import Counter
from functools import cache

import torch

from discli.model import DiS
from discli.model.block import Block
from discli.model.flops import matmul_flops
from discli.model.modulation import Modulation
from discli.recipe import Recipe
from discli.recipe.model import ModelSpec


def forward_flops(recipe: Recipe) -> dict[str, int]:
    """Floating-point operations of one image through `DiS`, by part; their sum is the model's.

    A multiply-add counts as two; many papers count it as one. Mixers, skips and conditionings count
    themselves. What is no matrix product in a scan is counted as the operations that it is made of, in
    the part "scan". Left out is what does an operation or so to each element (norms, gates, activations,
    sums). Training takes three times as many: the backward pass makes two products of every forward one.
    """
    return dict(_count(recipe.model, recipe.input_size, recipe.in_channels, recipe.out_channels))


def training_flops(recipe: Recipe) -> float:
    """Of training on one image, the mean over a run's steps: forward once, backward twice as much.

    Patches that skip blocks are not counted there, and what goes through the averaged weights is: of a further
    loss that learns from these, one forward pass of its teacher's blocks.
    """
    spec, model = recipe.train, recipe.model
    _, tokens, _ = _network(model, recipe.input_size, recipe.in_channels, recipe.out_channels).pos_embed.shape
    total = 3.0 * sum(forward_flops(recipe).values())
    if spec.route is not None:
        span, patches = spec.route.blocks(model.depth), recipe.num_patches
        fewer = tokens - patches + spec.route.kept(patches)
        total -= 3 * spec.route.stop_at * (_of_blocks(recipe, span, tokens) - _of_blocks(recipe, span, fewer))
    for loss in spec.auxiliary.values():
        if averaged := loss.learns_from(model):
            total += loss.stop_at * _of_blocks(recipe, range(1, averaged.block + 1), tokens)
    return total


def _of_blocks(recipe: Recipe, numbers: range, L: int) -> int:
    """Of one pass of L tokens through the blocks of those numbers, from 1; what modulates them left out."""
    network = _network(recipe.model, recipe.input_size, recipe.in_channels, recipe.out_channels)
    layers = [layer for number in numbers for layer in network.blocks[number - 1].modules() if isinstance(layer, Block)]
    return sum(sum(layer.mixer.flops(L).values()) + (layer.skip.flops(L) if layer.skip else 0) for layer in layers)


@cache
def _network(model: ModelSpec, input_size: int, in_channels: int, out_channels: int) -> DiS:
    with torch.device("meta"):
        return DiS(model, input_size, in_channels, out_channels)


@cache  # the trials of a study share networks, and one of a billion parameters takes long to lay out
def _count(model: ModelSpec, input_size: int, in_channels: int, out_channels: int) -> dict[str, int]:
    network = _network(model, input_size, in_channels, out_channels)
    _, L, D = network.pos_embed.shape
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    modulations = [module for module in network.modules() if isinstance(module, Modulation)]
    layers: Counter[str] = Counter()
    for block in blocks:
        layers.update(block.mixer.flops(L))
        if block.grid_conv is not None:
            layers["grid convolution"] += block.grid_conv.flops()
    pixels = model.patch_size**2
    return {
        "patch embedding": network.patch_embed.flops(input_size),
        "time embedding": 2 * matmul_flops(1, D, 4 * D),
        **layers,
        "long skips": sum(block.skip.flops(L) for block in blocks if block.skip is not None),
        "modulation": network.conditioning.flops() + sum(modulation.flops() for modulation in modulations),
        "head": matmul_flops(L, D, pixels * out_channels),
        "head convolution": 0 if network.head_conv is None else network.head_conv.flops(input_size),
    }
