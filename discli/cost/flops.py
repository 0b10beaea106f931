"""How much arithmetic one forward pass is, part by part: what utilisation and ``GFLOPs`` columns are made of."""

from collections import Counter

from discli.cost.memory import empty_network
from discli.model.block import Block
from discli.model.flops import matmul_flops
from discli.model.modulation import Modulation
from discli.recipe import Recipe


def forward_flops(recipe: Recipe) -> dict[str, int]:
    """Floating-point operations of one image through `DiS`, by part; their sum is the model's.

    A multiply-add counts as two; many papers count it as one. Mixers, skips and conditionings count
    themselves. What is no matrix product in a scan is counted as the operations that it is made of, in
    the part "scan". Left out is what does an operation or so to each element (norms, gates, activations,
    sums). Training takes three times as many: the backward pass makes two products of every forward one.
    """
    network = empty_network(recipe)
    _, L, D = network.pos_embed.shape
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    modulations = [module for module in network.modules() if isinstance(module, Modulation)]
    layers: Counter[str] = Counter()
    for block in blocks:
        layers.update(block.mixer.flops(L))
    pixels = recipe.model.patch_size**2
    return {
        "patch embedding": matmul_flops(recipe.num_patches, pixels * recipe.in_channels, D),
        "time embedding": 2 * matmul_flops(1, D, 4 * D),
        **layers,
        "long skips": sum(block.skip.flops(L) for block in blocks if block.skip is not None),
        "modulation": network.conditioning.flops() + sum(modulation.flops() for modulation in modulations),
        "head": matmul_flops(L, D, pixels * recipe.out_channels),
    }
