"""Samples held on the device are those of the file, bit for bit."""

import numpy as np
import pytest
import torch

from discli.data.device import OnDevice
from discli.data.store import open_store
from tests.data.files import VAE, contract, some_rows, write_store


@pytest.mark.parametrize(
    "promise",
    [
        contract(),
        contract(codec=VAE, dtype="float16", flip_stored=True),
        contract(codec=VAE, dtype="float32", flip_stored=False),
    ],
    ids=["pixels", "latents of both orientations", "latents of one"],
)
def test_reads_what_the_store_reads(promise, tmp_path):
    store = open_store(write_store(tmp_path / "data.h5", some_rows(30, promise), promise, np.arange(30) % 2))
    held = OnDevice(store, torch.device("cpu"))
    indices = np.random.default_rng(0).integers(0, 30, 50)
    flips = [None, np.zeros(50, bool)]
    if promise.codec.name == "rgb" or promise.flip_stored:
        flips.append(np.arange(50) % 3 == 0)
    for flip in flips:
        ours, theirs = held.read(indices, flip), store.read(indices, flip)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert len(held) == 30
    assert held.labels is store.labels


def test_chunks_are_put_together_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("discli.data.device._CHUNK_BYTES", 200)
    promise = contract()
    rows = some_rows(31, promise)
    held = OnDevice(open_store(write_store(tmp_path / "data.h5", rows, promise)), torch.device("cpu"))
    assert np.array_equal(held.read(np.arange(31)).numpy(), rows)
