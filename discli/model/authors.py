"""Reading checkpoints of the DiS authors' code: their parameter names, our model."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from discli.recipe.size import Size
from discli.runtime.errors import DiscliError


class AuthorsModel(NamedTuple):
    """What the shapes of an authors' checkpoint tell about the network it belongs to."""

    embed_dim: int
    depth: int
    patch_size: int
    input_size: Size  # a square, as all of theirs are
    in_channels: int
    out_channels: int
    num_classes: int
    d_state: int
    d_conv: int


_OUTSIDE_BLOCKS = {
    "patch_embed.proj": "patch_embed",
    "time_embed.0": "time_embed.expand",
    "time_embed.2": "time_embed.contract",
    "label_emb.embedding_table": "class_embed",
    "norm_f": "head.norm",
    "final_layer.adaLN_modulation.1": "head.modulation.linear",
    "final_layer.linear": "head.linear",
}

# The suffix _b marks the backward direction, except that A_log becomes A_b_log.
_IN_DIRECTION = {
    "conv1d.weight": "conv_weight",
    "conv1d.bias": "conv_bias",
    "x_proj.weight": "x_proj",
    "dt_proj.weight": "dt_weight",
    "dt_proj.bias": "dt_bias",
    "A_log": "A_log",
    "D": "D",
}


def read_shapes(state: Mapping[str, Tensor]) -> AuthorsModel:
    """Sizes from shapes. Raises DiscliError when ``state`` is not a DiS of the authors' code."""
    try:
        embed_dim, in_channels, patch_size, _ = state["patch_embed.proj.weight"].shape
        num_classes = len(state["label_emb.embedding_table.weight"]) - 1 if _has_classes(state) else 0
        tokens = state["pos_embed"].shape[1] - (2 if num_classes else 1)
        _, d_state = state["mid_block.mixer.A_log"].shape
        d_conv = state["mid_block.mixer.conv1d.weight"].shape[-1]
        out_channels = len(state["final_layer.linear.bias"]) // patch_size**2
    except (KeyError, ValueError) as error:
        raise DiscliError(
            f"Not a DiS checkpoint of the authors' code: {error} is missing or has an unexpected shape.",
            "Give the .pt or .pth file that their trainer wrote.",
        ) from None
    in_blocks = 1 + max((int(m[1]) for k in state if (m := re.match(r"in_blocks\.(\d+)\.", k))), default=-1)
    return AuthorsModel(
        embed_dim=embed_dim,
        depth=2 * in_blocks + 1,
        patch_size=patch_size,
        input_size=Size.square(math.isqrt(tokens) * patch_size),
        in_channels=in_channels,
        out_channels=out_channels,
        num_classes=num_classes,
        d_state=d_state,
        d_conv=d_conv,
    )


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Authors' names and shapes to ours; values untouched. A convolution's (E, 1, K) becomes (E, K)."""
    depth = read_shapes(state).depth
    return {ours: _reshape(ours, tensor) for name, tensor in state.items() if (ours := our_name(name, depth))}


def our_name(name: str, depth: int) -> str:
    """``in_blocks.3.mixer.A_b_log`` -> ``blocks.3.mixer.backward_scan.A_log``; depth counts all blocks."""
    middle = depth // 2
    stem, _, leaf = name.rpartition(".")
    if name == "pos_embed":
        return name
    if stem in _OUTSIDE_BLOCKS:
        return f"{_OUTSIDE_BLOCKS[stem]}.{leaf}"
    match = re.fullmatch(r"(?:in_blocks\.(\d+)|(mid_block)|out_blocks\.(\d+))\.(.+)", name)
    if not match:
        raise DiscliError(f"Unknown parameter {name} in the checkpoint.", "Only DiS models of the authors can be read.")
    index = int(match[1]) if match[1] else middle if match[2] else middle + 1 + int(match[3])
    inner = match[4].replace("skip_linear", "skip.linear")
    if inner.startswith("mixer."):
        inner = "mixer." + _mixer_name(inner.removeprefix("mixer."))
    return f"blocks.{index}.{inner}"


def _mixer_name(name: str) -> str:
    if name in _IN_DIRECTION:
        return f"forward_scan.{_IN_DIRECTION[name]}"
    forward = re.sub(r"^(\w+?)_b(?=$|[._])", r"\1", name)
    return f"backward_scan.{_IN_DIRECTION[forward]}" if forward in _IN_DIRECTION else name


def _reshape(name: str, tensor: Tensor) -> Tensor:
    # Their depthwise convolution keeps PyTorch's (E, 1, K).
    return tensor.squeeze(1) if name.endswith("conv_weight") else tensor


def _has_classes(state: Mapping[str, Tensor]) -> bool:
    return "label_emb.embedding_table.weight" in state
