"""Convolution, activation and residual in one oneDNN call on a CPU, weights laid out for it once.

PyTorch has no public way to ask for that: its compiler's own operations are used where they are there
and give the right answer, and PyTorch's ordinary ones everywhere else.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["none", "relu", "relu6"]
_AS_ONEDNN: dict[Activation, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}


class FusedConv:
    """A convolution without gradients; images (B, C, H, W) channels-last.

    ``fused``: in one call, on a CPU where this `works` for the images' dtype; otherwise by PyTorch's ordinary ones.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        groups: int = 1,
        fused: bool = True,
    ) -> None:
        self._weight, self.bias, self._fused = weight.contiguous(memory_format=torch.channels_last), bias, fused
        self._stride, self._padding, self._groups = list(stride), list(padding), groups
        self._laid_out: dict[tuple[int, ...], Tensor] = {}  # the best layout depends on the input's shape

    def __call__(self, x: Tensor, activation: Activation = "none", add: Tensor | None = None) -> Tensor:
        """activation(conv(x)), or conv(x) + ``add``, which goes with no activation."""
        assert add is None or activation == "none"
        if not self._fused:
            y = F.conv2d(x, self._weight, self.bias, self._stride, self._padding, groups=self._groups)
            if add is not None:
                return y.add_(add)
            return y if activation == "none" else y.clamp_(0, 6 if activation == "relu6" else None)
        where: Any = (self._padding, self._stride, [1, 1], self._groups)
        weight, pointwise = self._weight_for(tuple(x.shape), where), torch.ops.mkldnn._convolution_pointwise
        if add is not None:
            found: Tensor = pointwise.binary(x, add, weight, self.bias, *where, "add", None, None, [], None)
        else:
            name, scalars = _AS_ONEDNN[activation]
            found = pointwise(x, weight, self.bias, *where, name, scalars, "")
        return found

    def _weight_for(self, shape: tuple[int, ...], where: Any) -> Tensor:
        weight = self._laid_out.get(shape)
        if weight is None:
            weight = torch.ops.mkldnn._reorder_convolution_weight(self._weight.contiguous(), *where, list(shape))
            self._laid_out = {shape: weight}  # of one shape at a time: a last, smaller batch is rare
        return weight


@cache
def works(dtype: torch.dtype = torch.float32) -> bool:
    """Whether these operations are here and right in ``dtype``: tried on small convolutions.

    In bfloat16 oneDNN has them for processors with AVX-512 alone.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.linspace(-9, 9, 2 * 8 * 9 * 9).view(2, 8, 9, 9).to(dtype).contiguous(memory_format=torch.channels_last)
    bias = torch.linspace(-1, 1, 8).to(dtype)
    rtol, atol = (1e-5, 1e-4) if dtype == torch.float32 else (2**-6, 0.25)  # of sums of up to 72 products
    tried: list[tuple[tuple[int, ...], int, int, Activation, bool]] = [
        ((8, 8, 1, 1), 1, 1, "relu6", False),
        ((8, 1, 5, 5), 2, 8, "relu6", False),
        ((8, 8, 3, 3), 2, 1, "relu", False),
        ((8, 8, 1, 1), 1, 1, "none", True),
    ]
    try:
        with torch.inference_mode():
            for shape, stride, groups, activation, adds in tried:
                weight = torch.linspace(-1, 1, shape[0] * shape[1] * shape[2] * shape[3]).view(shape).to(dtype)
                how = ((stride, stride), (shape[2] // 2, shape[3] // 2), groups)
                fused, plain = (
                    FusedConv(weight, bias, *how, which)(x, activation, x if adds else None) for which in (True, False)
                )
                if not torch.allclose(fused, plain, rtol, atol):
                    return False
    except (AttributeError, RuntimeError, TypeError):  # another release of PyTorch, another signature
        return False
    return True
