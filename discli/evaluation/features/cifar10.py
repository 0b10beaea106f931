"""A small classifier of CIFAR-10 as a feature network: it comes with the package, and nothing is downloaded.

How it was trained stands beside its weights, in assets/cifar10.md.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from discli.evaluation.convention import Convention
from discli.evaluation.extractor import Extractor
from discli.evaluation.parallel import in_small_batches
from discli.runtime.errors import DiscliError

CIFAR10_FD = "FD (CIFAR-10 classifier features), not FID"
WEIGHTS = Path(__file__).parents[2] / "assets" / "cifar10.safetensors"
SHA256 = "90087f9ef8732da5ee33437c1054d04a7dbd0a4fb9f028cbe6c0c148f49837f9"  # of that file, as released
INPUT_RULE = "bicubic, antialiased, to 32 px; images of 32 px as they are"

SIDE, CLASSES, FEATURES = 32, 10, 128
_WIDTHS, _RESIDUALS = (32, 96, FEATURES), (1, 2, 1)
_WHITENED = 24  # channels: each of the 12 directions of a 2 x 2 patch of RGB, and its opposite


class Stage(nn.Module):
    """Halves the image, then adds what 3 x 3 convolutions find (arXiv:1512.03385)."""

    def __init__(self, width_in: int, width: int, residuals: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.residuals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
            for _ in range(residuals)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(F.max_pool2d(self.conv(x), 2)))
        for residual in self.residuals:
            x = x + F.relu(residual(x))
        return x


class Cifar10Classifier(nn.Module):
    """(B, 3, 32, 32) in -1..1 to (B, 10), in 470,000 parameters; ``pooled`` is what it knows before it decides.

    The first convolution tells apart what differs most in the training images, and is not trained (airbench,
    arXiv:2404.00498); three stages of widths 32, 96 and 128 follow, and the mean over the places that are left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, _WHITENED, 2)
        self.whiten.weight.requires_grad_(False)
        widths = (_WHITENED, *_WIDTHS)
        self.stages = nn.Sequential(*(Stage(*each) for each in zip(widths[:-1], _WIDTHS, _RESIDUALS, strict=True)))
        self.head = nn.Linear(FEATURES, CLASSES)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, 128)."""
        found: Tensor = self.stages(F.relu(self.whiten(x))).mean(dim=(2, 3))
        return found

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.pooled(x))
        return scores


class Cifar10Features(Extractor):
    """A CIFAR-10 classifier's last pooling: comes with discli, sees those ten classes; not FID.

    (B, 3, H, W) uint8, from 16 px on, to ``features`` (B, 128). Images are brought to 32 px by `INPUT_RULE`, which is
    part of every record.
    """

    name = "cifar10"
    network = f"a CIFAR-10 classifier, last pooling, {FEATURES} features; {INPUT_RULE}"
    input_rule = INPUT_RULE
    smallest = 16
    dims: Mapping[str, int] = MappingProxyType({"features": FEATURES})

    def __init__(
        self, weights: Path | None = None, convention: Convention | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """``weights``: another file of `tests/bench/judge.py`; by default the one that comes with the package."""
        self._device = torch.device(device)
        self._network, self.weights_sha256 = read_classifier(weights or WEIGHTS)
        self._network.to(self._device).to(memory_format=torch.channels_last)

    def __call__(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        assert images_BCHW.dtype == torch.uint8
        self.check_size(*images_BCHW.shape[2:])  # an error of one batch, not of each thread
        return in_small_batches(self._features, images_BCHW, self._device)

    def score_name(self, score: str) -> str:
        return CIFAR10_FD if score == "FID" else f"{score} (CIFAR-10 classifier features)"

    def _features(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        x = images_BCHW.to(self._device).float()
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        x = (x / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        return {"features": self._network.pooled(x).cpu()}


def read_classifier(path: Path) -> tuple[Cifar10Classifier, str]:
    """The network for evaluation, computed in float32, and the sha256 of its file.

    Raises DiscliError for a file that is not there, cannot be read, or is another network's.
    """
    if not path.is_file():
        raise DiscliError(f"--weights {path}: no such file.", "Leave --weights out: discli brings its own.")
    content = path.read_bytes()
    network = Cifar10Classifier()
    needed = {name for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    try:
        state = load(content)
        if set(state) != needed:
            raise DiscliError(f"{path} does not hold the CIFAR-10 classifier.", "Leave --weights out.")
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    except (SafetensorError, RuntimeError) as error:  # or tensors of other shapes
        raise DiscliError(
            f"{path} cannot be read as the CIFAR-10 classifier ({type(error).__name__}).", "Leave --weights out."
        ) from error
    return network.eval().requires_grad_(False), hashlib.sha256(content).hexdigest()
