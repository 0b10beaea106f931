"""The yardstick: a DiT of today, of discli's own parts and as wide as it has to be.

Self-attention with rotary positions and normed queries and keys, and a SwiGLU, each under adaLN-Zero
(arXiv:2212.09748); no long skips. PyTorch's attention, which is flash attention in bf16 on a GPU.
"""

from bisect import bisect_left
from collections.abc import Callable

from torch import nn

from discli.cost.flops import forward_flops
from discli.model import DiS, empty_network
from discli.model.block import Block
from discli.model.modulation import Modulation
from discli.recipe import Recipe, parse_recipe

_WIDTHS = range(64, 4097, 64)  # in heads of 64, which are what kernels are made for


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def parameters_of(recipe: Recipe) -> int:
    return count(empty_network(recipe))


def flops_of(recipe: Recipe) -> int:
    """Of one image's forward pass."""
    return sum(forward_flops(recipe).values())


def block_flops_of(recipe: Recipe) -> int:
    """Of one image's forward pass through the first block."""
    network = empty_network(recipe)
    return block_flops(network, network.blocks[0])


def block_flops(network: DiS, block: nn.Module) -> int:
    tokens = network.pos_embed.shape[1]
    layers = [part for part in block.modules() if isinstance(part, Block)]
    modulations = [part for part in block.modules() if isinstance(part, Modulation)]
    return sum(sum(layer.mixer.flops(tokens).values()) for layer in layers) + sum(m.flops() for m in modulations)


def as_dit(recipe: Recipe, depth: int, measure: Callable[[Recipe], int]) -> Recipe:
    """The recipe with a DiT of so many blocks, of the width that brings ``measure`` closest to the recipe's own."""
    tree = recipe.model_dump(mode="json")
    kept = {key: tree["model"][key] for key in ("patch_size", "num_classes")}
    today = {"mixer": "attention", "conditioning": "adaln-zero", "skip": "none", "depth": depth, "drop_path_rate": 0.0}

    def of(width: int) -> Recipe:
        return parse_recipe(tree | {"model": kept | today | {"embed_dim": width}}, recipe.name)

    wanted = measure(recipe)
    above = bisect_left(_WIDTHS, wanted, key=lambda width: measure(of(width)))
    return min(map(of, _WIDTHS[max(0, above - 1) : above + 1]), key=lambda found: abs(measure(found) - wanted))
