"""Launchers and what they set."""

import pytest
import torch

from discli.recipe.train import TrainSpec
from discli.runtime.devices import auto_precision
from discli.runtime.errors import DiscliError
from discli.training.engine import Engine


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [("cpu", None, "fp32"), ("cuda", (9, 0), "bf16"), ("cuda", (8, 0), "bf16"), ("cuda", (7, 5), "fp32")],
)
def test_precision_is_bf16_only_where_the_gpu_computes_in_it(device, capability, expected, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert auto_precision(torch.device(device)) == expected


def test_a_tracker_that_is_not_installed_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("discli.training.engine.importlib.util.find_spec", lambda name: None)
    with pytest.raises(DiscliError, match="pip install wandb"):
        Engine(TrainSpec(steps=1, tracker="wandb"), tmp_path)


@pytest.mark.parametrize(
    ("norm", "is_finite", "asked", "expected"),
    [(2.5, True, False, (False, False)), (2.5, False, True, (True, True)), (float("inf"), True, False, (True, False))],
)
def test_one_agreement_a_step_says_what_is_not_finite_and_who_was_asked_to_stop(
    norm, is_finite, asked, expected, tmp_path
):
    engine = Engine(TrainSpec(steps=1, tracker="none"), tmp_path)
    found, *flags = engine.agree(torch.tensor(norm), torch.tensor(is_finite), asked)
    assert (found, *flags) == (norm, *expected)
