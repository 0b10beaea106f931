"""Running a feature network: large batches in pieces that stay in the processor's cache, all in float32."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from discli.evaluation.features.cores import on_every_core

# Inception on two cores (AMD EPYC with AVX2): 86 ms an image in pieces of 4, one on each core; 96 ms in
# pieces of 16; 111 ms with both cores in the same piece of 16. On one core with AVX-512 and fused
# convolutions: 124 ms in pieces of 4, 115 in 8, 119 in 16.
_PIECE = 8


def in_small_batches(
    features: Callable[[Tensor], Mapping[str, Tensor]], images_BCHW: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """``features`` of the batch: on a CPU a few images at a time on every core; on other devices all at once."""
    with _without_tf32():
        if device.type != "cpu":
            return dict(features(images_BCHW))
        parts = on_every_core(features, images_BCHW.split(_PIECE))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@contextmanager
def _without_tf32() -> Iterator[None]:
    """TF32's ten bits of mantissa would make a score depend on the GPU that computed it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
