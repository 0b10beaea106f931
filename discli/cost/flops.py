"""How much arithmetic one forward pass is, part by part: what utilisation and ``GFLOPs`` columns are made of."""

from collections import Counter
from collections.abc import Iterable
from functools import cache

import torch
from torch import nn

from discli.model import DiS
from discli.model.block import Block
from discli.model.flops import matmul_flops
from discli.model.modulation import Modulation
from discli.recipe import Recipe
from discli.recipe.model import ModelSpec
from discli.recipe.size import Size


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
    loss that learns from these, one forward pass up to its teacher's block.
    """
    spec, model = recipe.train, recipe.model
    shape = recipe.input_size, recipe.in_channels, recipe.out_channels
    total = 3.0 * sum(forward_flops(recipe).values())
    if spec.route is not None:
        span, patches = spec.route.blocks(model.depth), recipe.num_patches
        network = _network(model, *shape)
        tokens = network.pos_embed.shape[1]
        fewer = tokens - patches + spec.route.kept(patches)
        routed = _layers([network.blocks[number - 1] for number in span])
        total -= 3 * spec.route.stop_at * (_of_tokens(routed, tokens) - _of_tokens(routed, fewer)).total()
    for loss in spec.auxiliary.values():
        if averaged := loss.learns_from(model):
            total += loss.stop_at * sum(_count(model, *shape, averaged.block).values())
    return total


def _layers(blocks: Iterable[nn.Module]) -> list[Block]:
    return [layer for block in blocks for layer in block.modules() if isinstance(layer, Block)]


def _of_tokens(layers: Iterable[Block], L: int) -> Counter[str]:
    """What L tokens take of them, by part: all but what is the grid's or the whole image's."""
    count: Counter[str] = Counter()
    for layer in layers:
        count.update(layer.mixer.flops(L))
        count["long skips"] += layer.skip.flops(L) if layer.skip is not None else 0
    return count


@cache
def _network(model: ModelSpec, input_size: Size, in_channels: int, out_channels: int) -> DiS:
    with torch.device("meta"):
        return DiS(model, input_size, in_channels, out_channels)


@cache  # the trials of a study share networks, and one of a billion parameters takes long to lay out
def _count(
    model: ModelSpec, input_size: Size, in_channels: int, out_channels: int, up_to: int | None = None
) -> dict[str, int]:
    """Of the whole network, or ``up_to`` a block, from 1, without a head."""
    network = _network(model, input_size, in_channels, out_channels)
    _, L, D = network.pos_embed.shape
    layers = _layers(network.blocks[:up_to])
    modulated: Iterable[nn.Module] = network.modules() if up_to is None else network.blocks[:up_to].modules()
    modulations = [module for module in modulated if isinstance(module, Modulation)]
    of_tokens = _of_tokens(layers, L)
    if grids := [layer.grid_conv for layer in layers if layer.grid_conv is not None]:
        of_tokens["grid convolution"] += sum(grid.flops() for grid in grids)
    long_skips = of_tokens.pop("long skips")
    count = {
        "patch embedding": network.patch_embed.flops(input_size),
        "time embedding": 2 * matmul_flops(1, D, 4 * D),
        **of_tokens,
        "long skips": long_skips,
        "modulation": network.conditioning.flops() + sum(modulation.flops() for modulation in modulations),
    }
    if up_to is None:
        count["head"] = matmul_flops(L, D, model.patch_size**2 * out_channels)
        count["head convolution"] = 0 if network.head_conv is None else network.head_conv.flops(input_size)
    return count
