"""The two resizes that feature networks are published with; FID moves by whole points between them."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from discli.metrics.convention import Resize
from discli.metrics.torch_fidelity import import_torch_fidelity


def resize(x_BCHW: Tensor, side: int, how: Resize) -> Tensor:
    """float32 in 0..255 to (B, 3, side, side), unrounded."""
    if how == "tf1-bilinear":
        module: Any = import_torch_fidelity("interpolate_compat_tensorflow")
        resized: Tensor = module.interpolate_bilinear_2d_like_tensorflow1x(
            x_BCHW, size=(side, side), align_corners=False
        )
        return resized
    # With antialiasing torch computes Pillow's bicubic (a = -0.5), on floats as clean-fid does.
    return F.interpolate(x_BCHW, size=(side, side), mode="bicubic", antialias=True).clamp(0, 255)
