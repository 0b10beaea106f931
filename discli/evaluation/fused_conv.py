"""Convolution and ReLU in one oneDNN call on a CPU, weights laid out for it once instead of at every call.

PyTorch has no public way to ask for that: its compiler's own operations are used where they are there
and give the right answer, and PyTorch's ordinary ones everywhere else.
"""

from functools import cache

import torch
from torch import Tensor, nn


class FusedConv(nn.Module):
    """``relu(conv(x))`` without gradients, x (B, C, H, W) float32 on a CPU and channels-last."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self._conv = conv
        self._laid_out: dict[tuple[int, ...], Tensor] = {}  # the best layout depends on the input's shape

    def forward(self, x: Tensor) -> Tensor:
        conv, shape = self._conv, tuple(x.shape)
        where = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        weight = self._laid_out.get(shape)
        if weight is None:
            weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.contiguous(), *where, list(shape))
            self._laid_out = {shape: weight}  # of one shape at a time: a last, smaller batch is rare
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, conv.bias, *where, "relu", [], "")
        return y


@cache
def works() -> bool:
    """Whether these operations are here and right: tried on a small convolution."""
    if not torch.backends.mkldnn.is_available():
        return False
    with torch.random.fork_rng(devices=[]):  # whoever counts on the state of the generator
        conv = nn.Conv2d(3, 8, 3, stride=2, padding=1).to(memory_format=torch.channels_last)
    x = torch.linspace(-1, 1, 2 * 3 * 9 * 9).view(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            return torch.allclose(FusedConv(conv)(x), conv(x).relu(), atol=1e-5)
    except (AttributeError, RuntimeError, TypeError):  # another release of PyTorch, another signature
        return False
