"""A bad or missing device is refused before anything uses it."""

import pytest
import torch

from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cuda:x", "meta", "mps"])
def test_other_devices_are_refused_with_those_that_there_are(name):
    with pytest.raises(DiscliError, match="no such device") as refused:
        pick_device(name)
    assert "cpu" in refused.value.hint


def test_a_build_without_cuda_is_no_assertion_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DiscliError):
        pick_device("cuda")
    assert pick_device("cpu") == torch.device("cpu")
