"""Pieces of a batch: their order, their threads, and the precision they run in."""

import threading

import pytest
import torch

from discli.metrics.small_batches import in_small_batches


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_pieces_come_back_in_order_and_tf32_is_off_only_meanwhile():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    seen = []

    def features(pictures):
        seen.append((len(pictures), matmul.allow_tf32, cudnn.allow_tf32))
        return {"features": pictures.float() + 1}

    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
        found = in_small_batches(features, torch.arange(10), torch.device("cpu"))
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (True, True)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
    assert torch.equal(found["features"], torch.arange(10).float() + 1)
    assert sorted(size for size, *_ in seen) == [2, 4, 4]
    assert {tf32 for _, *tf32s in seen for tf32 in tf32s} == {False}


@pytest.mark.usefixtures("two_threads")
def test_two_cores_have_a_piece_each_and_nobody_else_s_threads_change():
    together = threading.Barrier(2, timeout=30)  # broken unless two pieces run at once
    inside = []

    def features(pictures):
        together.wait()
        inside.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return {"features": pictures}

    in_small_batches(features, torch.arange(8), torch.device("cpu"))
    assert inside == [(1, True), (1, True)]
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert (torch.get_num_threads(), found) == (2, [2])
