"""DINOv2's vision transformer (arXiv:2304.07193) as a feature network, from its published weights alone.

torch-fidelity runs it through torch.hub, which fetches and executes code from GitHub and cannot be
given a weights file; the network is small enough to be written out instead.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from discli.evaluation.convention import CONVENTIONS, Convention, resize
from discli.evaluation.extractor import Extractor, hub_cache, named_weights, read_state_dict
from discli.evaluation.parallel import in_small_batches
from discli.runtime.errors import DiscliError

FILE_NAME = "dinov2_vitl14_pretrain.pth"
URL = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{FILE_NAME}"
VARIABLE = "DISCLI_DINOV2_WEIGHTS"

SIDE = 224
_PATCH = 14
_HEAD_DIM = 64
_SIZES = {384: "s", 768: "b", 1024: "l", 1536: "g"}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The authors add it to the number of patches when they scale the position embedding, against rounding.
_OFFSET = 0.1


class DinoV2(Extractor):
    """DINOv2's vision transformer, the normalised class token at 224 px.

    (B, 3, H, W) uint8 to ``features`` (B, D).

    Published figures (FD-DINOv2, arXiv:2306.04675) use ViT-L/14, D = 1024, and an antialiased bicubic
    resize, which is clean-fid's; torch-fidelity gives the network its TensorFlow resize. The file decides
    which size it is. float32 throughout.
    """

    name = "dinov2"
    convention: Convention

    def __init__(
        self, weights: Path | None = None, convention: Convention | None = None, device: torch.device | str = "cpu"
    ) -> None:
        path = find_dinov2_weights(weights)
        state, self.weights_sha256 = read_dinov2_weights(path)
        dim = state["cls_token"].shape[-1]
        self.name = f"dinov2-vit-{_SIZES.get(dim, dim)}-{_PATCH}"
        self.network = f"DINOv2, normalised class token at {SIDE} px, {dim:,} features"
        self.convention = convention or CONVENTIONS["clean-fid"]
        self.dims: Mapping[str, int] = MappingProxyType({"features": dim})
        self._device = torch.device(device)
        self._weights = {name: value.float().to(self._device) for name, value in state.items()}
        self._depth = len([name for name in state if name.endswith(".ls1.gamma")])
        self._position = _resized_position(self._weights["pos_embed"])

    def __call__(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        assert images_BCHW.dtype == torch.uint8
        return in_small_batches(self._features, images_BCHW, self._device)

    def _features(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        x = resize(images_BCHW.to(self._device).float(), SIDE, self.convention.resize) / 255
        mean, std = (torch.tensor(values, device=self._device).view(3, 1, 1) for values in (_MEAN, _STD))
        patches = F.conv2d((x - mean) / std, *self._pair("patch_embed.proj"), stride=_PATCH)
        x_BLD = patches.flatten(2).transpose(1, 2)
        first = self._weights["cls_token"].expand(len(x_BLD), -1, -1)
        x_BLD = torch.cat([first, x_BLD], dim=1) + self._position
        for index in range(self._depth):
            block = f"blocks.{index}"
            scale_1, scale_2 = self._weights[f"{block}.ls1.gamma"], self._weights[f"{block}.ls2.gamma"]
            x_BLD = x_BLD + scale_1 * self._attend(self._norm(x_BLD, f"{block}.norm1"), block)
            x_BLD = x_BLD + scale_2 * self._mlp(self._norm(x_BLD, f"{block}.norm2"), block)
        return {"features": self._norm(x_BLD[:, 0], "norm").cpu()}

    def _attend(self, x_BLD: Tensor, block: str) -> Tensor:
        batch, length, dim = x_BLD.shape
        qkv = F.linear(x_BLD, *self._pair(f"{block}.attn.qkv"))
        q, k, v = qkv.view(batch, length, 3, dim // _HEAD_DIM, _HEAD_DIM).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, dim)
        return F.linear(mixed, *self._pair(f"{block}.attn.proj"))

    def _mlp(self, x_BLD: Tensor, block: str) -> Tensor:
        if f"{block}.mlp.w12.weight" in self._weights:  # ViT-g: SwiGLU
            gate, value = F.linear(x_BLD, *self._pair(f"{block}.mlp.w12")).chunk(2, dim=-1)
            return F.linear(F.silu(gate) * value, *self._pair(f"{block}.mlp.w3"))
        hidden = F.gelu(F.linear(x_BLD, *self._pair(f"{block}.mlp.fc1")))
        return F.linear(hidden, *self._pair(f"{block}.mlp.fc2"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), *self._pair(name), eps=1e-6)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]


def find_dinov2_weights(given: Path | None = None) -> Path:
    """The file: ``given`` (``--weights``), $DISCLI_DINOV2_WEIGHTS, or torch.hub's cache; 1.2 GB, never downloaded."""
    found = named_weights(given, VARIABLE, FILE_NAME, URL)
    if found is not None:
        return found
    cached = hub_cache(FILE_NAME)
    if cached.is_file():
        return cached
    raise DiscliError(
        f"DINOv2's weights, {FILE_NAME}, are not here.",
        f"Download {URL} (1.2 GB) and put it at {cached}, or name it with --weights PATH or {VARIABLE}.",
    )


def read_dinov2_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The state dict, and the sha256 of the file. DiscliError for what is not a DINOv2 without registers."""
    state, sha256 = read_state_dict(path, "blocks.0.ls1.gamma", "a DINOv2 network", URL)
    if "register_tokens" in state:
        raise DiscliError(f"{path} is DINOv2 with registers, which nobody scores with.", f"Give {URL}")
    return state, sha256


def _resized_position(position_1LD: Tensor) -> Tensor:
    """The learned position embedding, brought from its training grid (37 x 37) to that of 224 px (16 x 16)."""
    patches = position_1LD[:, 1:]
    side, wanted = round(patches.shape[1] ** 0.5), SIDE // _PATCH
    if side == wanted:
        return position_1LD
    scale = (wanted + _OFFSET) / side
    grid = patches.view(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    assert grid.shape[2:] == (wanted, wanted)
    return torch.cat([position_1LD[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
