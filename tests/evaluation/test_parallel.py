"""Pieces on cores of their own, and the precision they run in."""

import threading
import time

import pytest
import torch

from discli.evaluation.parallel import in_small_batches, on_every_core


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_each_is_called_by_the_caller_and_may_stop_it():
    callers = []

    def interrupted():
        callers.append(threading.current_thread())
        if len(callers) == 3:
            raise KeyboardInterrupt

    begun = []
    with pytest.raises(KeyboardInterrupt):
        on_every_core(lambda piece: (begun.append(piece), time.sleep(0.01)), range(50), interrupted)
    assert set(callers) == {threading.current_thread()}
    assert len(begun) < 50


@pytest.mark.usefixtures("two_threads")
def test_two_cores_have_a_piece_each_and_nobody_elses_threads_change():
    together = threading.Barrier(2, timeout=30)  # broken unless two pieces run at once
    inside = []

    def work(piece):
        together.wait()
        inside.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return -piece

    assert on_every_core(work, [1, 2]) == [-1, -2]
    assert inside == [(1, True), (1, True)]
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert (torch.get_num_threads(), found) == (2, [2])


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
