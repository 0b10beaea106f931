"""Pieces on cores of their own."""

import threading
import time

import pytest
import torch

from discli.evaluation.features.cores import on_every_core


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
