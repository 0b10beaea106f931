"""Launchers and what they set."""

import time
from types import SimpleNamespace

import pytest
import torch

from discli.recipe.train import TrainSpec
from discli.runtime import devices
from discli.runtime.devices import bf16_gain_on_cpu, settle_precision
from discli.runtime.errors import DiscliError
from discli.training.engine import Engine


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")],
)
def test_precision_is_bf16_only_where_the_gpu_computes_in_it(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert settle_precision("auto", torch.device("cuda")).name == expected
    assert settle_precision("bf16", torch.device("cuda")).name == "bf16"


@pytest.mark.parametrize(
    ("has_bf16", "gain", "expected"),
    [(True, 2.0, "bf16"), (True, 1.2, "fp32"), (True, 0.5, "fp32"), (False, 9.0, "fp32")],
)
def test_precision_on_a_cpu_is_bf16_only_where_a_trial_finds_it_faster(has_bf16, gain, expected, monkeypatch):
    monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: has_bf16)
    monkeypatch.setattr(devices, "bf16_gain_on_cpu", lambda: gain)
    choice = settle_precision("auto", torch.device("cpu"))
    assert choice.name == expected
    assert (f"{gain} times" in str(choice)) == has_bf16
    assert str(settle_precision("fp32", torch.device("cpu"))) == "fp32"


@pytest.mark.parametrize(("device", "expected"), [("cuda", 8), ("cpu", 2)])
def test_processes_of_one_machine_share_its_cpu_and_have_a_gpu_each(device, expected, monkeypatch):
    """What its peak is counted by."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    engine = SimpleNamespace(world_size=8, device=torch.device(device))
    assert Engine.devices.fget(engine) == expected


def test_the_trial_takes_no_time_and_leaves_the_random_state():
    before = torch.random.get_rng_state()
    bf16_gain_on_cpu.cache_clear()
    started = time.thread_time()
    assert 0 < bf16_gain_on_cpu() < 100
    # Without the instructions PyTorch emulates them, and nothing asks for a trial.
    assert time.thread_time() - started < 1 or not devices._cpu_has_bf16()
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_resumed_session_computes_in_what_the_run_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: True)
    monkeypatch.setattr(devices, "bf16_gain_on_cpu", lambda: 2.0)

    def precision(spec, **began):
        return Engine(spec, tmp_path, torch.device("cpu"), **began).precision

    left_open = TrainSpec(steps=1, tracker="none")
    assert precision(left_open) == "bf16"
    assert precision(left_open, began_with="fp32") == "fp32"
    assert precision(TrainSpec(steps=1, tracker="none", precision="fp32"), began_with="bf16") == "fp32"


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
