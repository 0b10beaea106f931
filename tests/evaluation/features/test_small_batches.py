"""Pieces of a batch, and the precision they run in."""

import torch

from discli.evaluation.features.small_batches import in_small_batches


def test_pieces_come_back_in_order_and_tf32_is_off_only_meanwhile():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    seen = []

    def features(images):
        seen.append((len(images), matmul.allow_tf32, cudnn.allow_tf32))
        return {"features": images.float() + 1}

    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
        found = in_small_batches(features, torch.arange(10), torch.device("cpu"))
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (True, True)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
    assert torch.equal(found["features"], torch.arange(10).float() + 1)
    assert sorted(size for size, *_ in seen) == [2, 8]
    assert {tf32 for _, *tf32s in seen for tf32 in tf32s} == {False}
