"""From [-1, 1] to bytes."""

import torch
from torch import Tensor


def to_pixels(x: Tensor) -> Tensor:
    """uint8, the exact inverse of x / 127.5 - 1; values beyond [-1, 1] are clipped."""
    return ((x.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
