"""Convolution, ReLU6 and residual in one oneDNN call on a CPU, weights laid out for it once.

PyTorch has no public way to ask for that: its compiler's own operations are used where they are there
and give the right answer, and PyTorch's ordinary ones everywhere else.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


class Conv:
    """A convolution without gradients; images (B, C, H, W) channels-last.

    Padding is TensorFlow's SAME: where it is odd, the right and lower edges get more. With stride 2 and an even side
    it always is; a kernel with a row and a column of zeros before it asks for the same of ordinary padding,
    and saves a padded copy of the image, which took longer than the convolution.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int = 1, fused: bool = False) -> None:
        self._padding, self._groups = weight.shape[-1] // 2, len(weight) if weight.shape[1] == 1 else 1
        if stride == 2:
            weight = F.pad(weight, (1, 0, 1, 0))
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias, self._stride, self._fused = bias, stride, fused
        self._laid_out: dict[tuple[int, ...], Tensor] = {}  # the best layout depends on the input's shape

    def __call__(self, x: Tensor, relu6: bool = False, add: Tensor | None = None) -> Tensor:
        """conv(x), then plus ``add``, then cut to 0..6 where ``relu6``; not both."""
        assert self._stride == 1 or x.shape[2] % 2 == x.shape[3] % 2 == 0
        if not self._fused:
            y = F.conv2d(x, self._weight, self.bias, self._stride, self._padding, groups=self._groups)
            y = y if add is None else y.add_(add)
            return y.clamp_(0, 6) if relu6 else y
        where = ([self._padding] * 2, [self._stride] * 2, [1, 1], self._groups)
        weight = self._weight_for(tuple(x.shape), where)
        pointwise = torch.ops.mkldnn._convolution_pointwise
        if add is not None:
            fused: Tensor = pointwise.binary(x, add, weight, self.bias, *where, "add", None, None, [], None)
        elif relu6:
            fused = pointwise(x, weight, self.bias, *where, "hardtanh", [0.0, 6.0], "")
        else:
            fused = pointwise(x, weight, self.bias, *where, "none", [], "")
        return fused

    def _weight_for(self, shape: tuple[int, ...], where: tuple[list[int], list[int], list[int], int]) -> Tensor:
        weight = self._laid_out.get(shape)
        if weight is None:
            plain = self._weight.contiguous()
            weight = torch.ops.mkldnn._reorder_convolution_weight(plain, *where, list(shape))
            self._laid_out = {shape: weight}  # of one shape at a time: a last, smaller batch is rare
        return weight


@cache
def works() -> bool:
    """Whether these operations are here and right: tried on small convolutions."""
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.linspace(-9, 9, 2 * 8 * 8 * 8).view(2, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            for shape, stride in (((8, 8, 1, 1), 1), ((8, 1, 3, 3), 1), ((8, 1, 5, 5), 2)):
                weight = torch.linspace(-1, 1, shape[0] * shape[1] * shape[2] ** 2).view(shape)
                bias = torch.linspace(-1, 1, 8)
                fused, plain = (Conv(weight, bias, stride, fused=which) for which in (True, False))
                if not torch.allclose(fused(x, relu6=True), plain(x, relu6=True), atol=1e-5):
                    return False
                if stride == 1 and not torch.allclose(fused(x, add=x), plain(x, add=x), atol=1e-4):
                    return False
    except (AttributeError, RuntimeError, TypeError):  # another release of PyTorch, another signature
        return False
    return True
