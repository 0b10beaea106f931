"""Convolution, activation and residual in one call give what they give apart, for any size of batch."""

import pytest
import torch
from torch import nn

from discli.data.features import fused_conv
from discli.data.features.fused_conv import FusedConv


@pytest.mark.skipif(not fused_conv.works(), reason="this PyTorch lacks the operations")
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7)])
@pytest.mark.parametrize("fused", [True, False])
def test_it_equals_the_two_apart(kernel, fused):
    conv = nn.Conv2d(16, 16, kernel, padding=tuple(k // 2 for k in kernel)).to(memory_format=torch.channels_last)
    one = FusedConv(conv.weight.detach(), conv.bias.detach(), padding=conv.padding, fused=fused)
    close = {"rtol": 1e-5, "atol": 1e-5}
    with torch.inference_mode():
        for batch in (4, 1, 4):
            x = 9 * torch.randn(batch, 16, 17, 17).contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(one(x, "relu"), conv(x).relu(), **close)
            torch.testing.assert_close(one(x, "relu6"), conv(x).clamp(0, 6), **close)
            torch.testing.assert_close(one(x, add=x), conv(x) + x, **close)


def test_wrong_or_missing_operations_are_not_used(monkeypatch):
    right = FusedConv.__call__

    def forgets(self, x, activation="none", add=None):
        return right(self, x, "none" if self._fused else activation, add)

    monkeypatch.setattr(FusedConv, "__call__", forgets)
    assert not fused_conv.works.__wrapped__()
    monkeypatch.delattr(FusedConv, "__call__")
    assert not fused_conv.works.__wrapped__()
