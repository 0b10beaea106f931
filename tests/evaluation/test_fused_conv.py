"""Convolution and ReLU in one call give what they give apart, for any size of batch."""

import pytest
import torch
from torch import nn

from discli.evaluation import fused_conv


@pytest.mark.skipif(not fused_conv.works(), reason="this PyTorch lacks the operations")
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7)])
def test_it_equals_the_two_apart(kernel):
    conv = nn.Conv2d(16, 24, kernel, padding=tuple(k // 2 for k in kernel)).to(memory_format=torch.channels_last)
    fused = fused_conv.FusedConv(conv)
    with torch.inference_mode():
        for batch in (4, 1, 4):
            x = torch.randn(batch, 16, 17, 17).contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(fused(x), conv(x).relu(), rtol=1e-5, atol=1e-5)


def test_wrong_or_missing_operations_are_not_used(monkeypatch):
    monkeypatch.setattr(fused_conv.FusedConv, "forward", lambda self, x: self._conv(x))  # forgets the ReLU
    assert not fused_conv.works.__wrapped__()
    monkeypatch.delattr(fused_conv.FusedConv, "forward")
    assert not fused_conv.works.__wrapped__()
