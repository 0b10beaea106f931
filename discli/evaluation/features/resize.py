"""The two resizes that feature networks are published with; FID moves by whole points between them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from discli.evaluation.features.convention import Resize


def resize(x_BCHW: Tensor, side: int, how: Resize) -> Tensor:
    """float32 in 0..255 to (B, 3, side, side), unrounded."""
    if how == "tf1-bilinear":
        return _tf1_bilinear(_tf1_bilinear(x_BCHW, side, 3), side, 2)
    # With antialiasing torch computes Pillow's bicubic (a = -0.5), on floats as clean-fid does.
    return F.interpolate(x_BCHW, size=(side, side), mode="bicubic", antialias=True).clamp(0, 255)


def _tf1_bilinear(x: Tensor, side: int, axis: int) -> Tensor:
    """TensorFlow 1's ``resize_bilinear``, along one axis: output i lies at i * scale, not at pixel centres.

    The same sums as torch-fidelity's, bit for bit, at half the cost: columns before rows are repeated.
    """
    place = torch.arange(side, dtype=torch.float32, device=x.device)
    place = place * torch.tensor(x.shape[axis] / side, dtype=torch.float32)
    low = place.long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    weight = (place - low.float()).view((-1, 1) if axis == 2 else (-1,))
    below, above = x.index_select(axis, low), x.index_select(axis, high)
    return below + (above - below) * weight
