"""A fixed network of random filters: a Frechet distance that needs no download and no training.

Random convolutions followed by pooling keep enough of texture and layout to rank samples of one kind
of image (Saxe et al., 2011, "On random weights and unsupervised feature learning"). The distance is
not FID, and cannot be compared with one.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from discli.evaluation.convention import Convention
from discli.evaluation.extractor import Extractor
from discli.evaluation.parallel import in_small_batches
from discli.runtime.errors import DiscliError

RANDOM_FD = "FD (random features), not comparable with FID"
SEED = 20240802
_STAGES = 4
_CHANNELS = 16
_LAYOUT_SIDE = 8
_LAYOUT_FILTERS = 32
_LAYOUT_DIM = 32


class RandomFeatures(Extractor):
    """Fixed random filters: no download, and not FID.

    (B, 3, H, W) uint8 to ``features`` (B, 160) float32, for images of any size from 2 px on.

    - Four stages of 3x3 filters (16 each) and absolute values, halving the image in between: mean and
      standard deviation of each channel over the image, 128 features of colour and texture at four
      scales. Every second filter of the first stage is blind to constants, so that fine noise and blur show.
    - The image shrunk to 8x8, 3x3 filters, absolute values and a random projection: 32 features of layout.

    160 dimensions keep the covariance regular from 161 images on. No batch norm, no dropout: an
    image's features do not depend on its neighbours in the batch, beyond rounding. The weights are
    uniform numbers made from raw Philox words, so they depend on no library's way of drawing normals.
    """

    name = "random"
    network = "fixed random filters in four stages, 160 features"
    dims: Mapping[str, int] = MappingProxyType({"features": 2 * _STAGES * _CHANNELS + _LAYOUT_DIM})

    def __init__(
        self, weights: Path | None = None, convention: Convention | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """Has its own weights and no convention. Raises DiscliError for others."""
        if weights is not None or convention is not None:
            raise DiscliError(
                "--features random has its own weights, and no convention.", "Leave --weights and --convention out."
            )
        words = np.random.Philox(key=SEED)
        stages = [_filters(words, _CHANNELS, 3 if i == 0 else _CHANNELS, 3) for i in range(_STAGES)]
        stages[0][::2] -= stages[0][::2].mean(dim=(2, 3), keepdim=True)
        drawn = [*stages, _filters(words, _LAYOUT_FILTERS, 3, 3)]
        drawn.append(_filters(words, _LAYOUT_DIM, _LAYOUT_FILTERS, _LAYOUT_SIDE) * 0.5**0.5)
        self._biases = [_uniform(words, (_CHANNELS,)) * 0.3 for _ in range(_STAGES)]
        content = b"".join(w.numpy().tobytes() for w in [*drawn, *self._biases])
        self.weights_sha256 = hashlib.sha256(content).hexdigest()

        *self._stages, self._layout, self._projection = (w.to(device) for w in drawn)
        self._biases = [b.to(device) for b in self._biases]
        self._device = torch.device(device)

    def __call__(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        assert images_BCHW.dtype == torch.uint8
        return in_small_batches(self._features, images_BCHW, self._device)

    def score_name(self, score: str) -> str:
        return RANDOM_FD if score == "FID" else f"{score} (random features)"

    def _features(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        x = images_BCHW.to(self._device).float() / 127.5 - 1
        small = F.adaptive_avg_pool2d(x, _LAYOUT_SIDE)
        found = [F.conv2d(_conv3x3(small, self._layout).abs(), self._projection).flatten(1)]
        for weight, bias in zip(self._stages, self._biases, strict=True):
            x = _conv3x3(x, weight, bias).abs()
            found += [x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0)]
            if min(x.shape[2:]) > 1:
                x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        return {"features": torch.cat(found, dim=1).cpu()}


def _conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # Replicated edges: zeros would draw a frame around every image.
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, bias)


def _filters(words: np.random.Philox, out: int, into: int, side: int) -> Tensor:
    """He-scaled (arXiv:1502.01852): the activations keep their size from stage to stage."""
    scale: float = (2 / (into * side * side)) ** 0.5
    return _uniform(words, (out, into, side, side)) * scale


def _uniform(words: np.random.Philox, shape: tuple[int, ...]) -> Tensor:
    """Mean 0, variance 1; 53 of the 64 random bits of each word."""
    bits = words.random_raw(int(np.prod(shape))) >> np.uint64(11)
    unit = bits.astype(np.float64) * 2.0**-53
    return torch.from_numpy(((2 * unit - 1) * 3**0.5).astype(np.float32).reshape(shape))
