"""How much arithmetic one forward pass is, part by part: what utilisation and ``GFLOPs`` columns are made of."""

import math

from discli.model.conditioning import Modulation, build_conditioning
from discli.model.mixer import MIXERS
from discli.model.order import ORDERS
from discli.recipe import Recipe
from discli.recipe.model import ModelSpec, head_width
from discli.runtime.errors import DiscliError

# Of the recurrence, for each token, channel and state: delta*A, exp, two for decay*h + input,
# (delta*x)*B, two for C*h summed over the states.
_SCAN = 7
# Of Mamba-2's, for each head and pair of tokens in a chunk: a difference, exp and a product.
_MASK = 3


def forward_flops(recipe: Recipe) -> dict[str, int]:
    """Floating-point operations of one image through `DiS`, by part; their sum is the model's.

    A multiply-add counts as two; many papers count it as one. What is no matrix product in a scan is
    counted as the operations that it is made of, in the part "scan". Left out is what does an operation
    or so to each element (norms, gates, activations, sums). Training takes three times as many: the
    backward pass makes two products of every forward one.
    """
    model = recipe.model
    D, p = model.embed_dim, model.patch_size
    conditioning = build_conditioning(model.conditioning, 1, has_classes=model.num_classes > 0)
    patches = recipe.num_patches
    L = patches + conditioning.extra_tokens
    layers = model.depth * (2 if MIXERS[model.mixer.name].mlp_ratio else 1)
    block_modulation = conditioning.block_modulation()
    modulated = Modulation.width * conditioning.modulates_head
    modulated += layers * (block_modulation.width if block_modulation else 0)

    return {
        "patch embedding": _matmul(patches, p * p * recipe.in_channels, D),
        "time embedding": 2 * _matmul(1, D, 4 * D),
        **{part: model.depth * count for part, count in mixer_flops(model, L).items()},
        "long skips": (model.depth // 2) * _matmul(L, 2 * D, D) if model.skip.name == "concat" else 0,
        "modulation": _matmul(1, D, modulated * D),
        "head": _matmul(L, D, p * p * recipe.out_channels),
    }


def mixer_flops(model: ModelSpec, L: int) -> dict[str, int]:
    """Of one block's mixer, on L tokens; of the MLP that goes with it, too. Others than ours count themselves."""
    name = model.mixer.name
    if count := getattr(MIXERS[name], "flops", None):
        own: dict[str, int] = count(model, L)
        return own
    if name not in ("mamba", "mamba2", "attention"):
        raise DiscliError(f'The mixer "{name}" does not count its FLOPs.', "Give its class flops (discli.model.mixer).")
    D, N, K = model.embed_dim, model.d_state, model.d_conv
    if model.mixer.name == "attention":
        return {
            "qkv and out_proj": _matmul(L, D, 3 * D) + _matmul(L, D, D),
            "attention": 2 * _matmul(L, D, L),
            "mlp": 2 * _matmul(L, D, MIXERS["attention"].mlp_ratio * D),
        }
    E = model.expand * D
    if model.mixer.name == "mamba2":
        H = E // head_width(E, model.mixer.head_dim)
        chunks = math.ceil(L / model.mixer.chunk)
        Q = math.ceil(L / chunks)
        direction = {
            "convolution": _matmul(L, K, E),
            "x_proj": _matmul(L, E, H + 2 * N),
            "products of the scan": chunks * (_matmul(Q, N, Q) + _matmul(Q, Q, E) + 2 * _matmul(Q, N, E)),
            "scan": chunks * (_MASK * H * Q * Q + 2 * E * N),
        }
    else:
        R = math.ceil(D / 16)
        direction = {
            "convolution": _matmul(L, K, E),
            "x_proj and dt_proj": _matmul(L, E, R + 2 * N) + _matmul(L, R, E),
            "scan": _SCAN * L * E * N,
        }
    directions = 2 * len(ORDERS[model.scan_order.name](1, 0))
    projections = {"in_proj and out_proj": _matmul(L, D, 2 * E) + _matmul(L, E, D)}
    return projections | {part: directions * count for part, count in direction.items()}


def _matmul(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns
