"""How much arithmetic one forward pass is, part by part: what utilisation and ``GFLOPs`` columns are made of."""

import math

from discli.model.conditioning import Modulation, build_conditioning
from discli.recipe import Recipe

# Of the recurrence, for each token, channel and state: delta*A, exp, two for decay*h + input,
# (delta*x)*B, two for C*h summed over the states.
_SCAN = 7


def forward_flops(recipe: Recipe) -> dict[str, int]:
    """Floating-point operations of one picture through `DiS`, by part; their sum is the model's.

    A multiply-add counts as two; many papers count it as one. The scan's recurrence counts as the
    seven operations that it is made of. Left out is what does an operation or so to each element
    (norms, gates, activations, sums). Training takes three times as many: the backward pass makes
    two products of every forward one.
    """
    model = recipe.model
    D, N, K, p = model.embed_dim, model.d_state, model.d_conv, model.patch_size
    E, R = model.expand * D, math.ceil(D / 16)
    conditioning = build_conditioning(model.conditioning, 1, has_classes=model.num_classes > 0)
    patches = recipe.num_patches
    L = patches + conditioning.extra_tokens
    directions = 2 * model.depth
    block_modulation = conditioning.block_modulation()
    modulated = Modulation.width * conditioning.modulates_head
    modulated += model.depth * (block_modulation.width if block_modulation else 0)

    return {
        "patch embedding": _matmul(patches, p * p * recipe.in_channels, D),
        "time embedding": 2 * _matmul(1, D, 4 * D),
        "in_proj and out_proj": model.depth * (_matmul(L, D, 2 * E) + _matmul(L, E, D)),
        "convolution": directions * _matmul(L, K, E),
        "x_proj and dt_proj": directions * (_matmul(L, E, R + 2 * N) + _matmul(L, R, E)),
        "scan": directions * (_SCAN * L * E * N),
        "long skips": (model.depth // 2) * _matmul(L, 2 * D, D) if model.skip.name == "concat" else 0,
        "modulation": _matmul(1, D, modulated * D),
        "head": _matmul(L, D, p * p * recipe.out_channels),
    }


def _matmul(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns
