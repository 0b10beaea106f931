"""Machines that recipes are planned for."""

import pytest
import torch

from discli.cost.hardware import Hardware
from discli.recipe.model import ModelSpec
from discli.runtime.errors import DiscliError


def _model(**settings):
    return ModelSpec.model_validate({"preset": "dis-s", **settings})


def test_a_known_gpu_and_how_many():
    machine = Hardware.of("a100", gpus=8, utilisation=0.3)
    assert machine.peak("bf16", tf32=True) == 8 * 312e12
    assert machine.peak("fp32", tf32=False) == 8 * 19.5e12
    assert (machine.name, machine.utilisations, machine.assumed) == ("8 x a100", (0.3,), True)
    assert (machine.precision("auto"), machine.backend(_model())) == ("bf16", "cuda")
    assert (machine.precision("fp32"), machine.backend(_model(scan="mamba-ssm"))) == ("fp32", "mamba-ssm")
    assert machine.backend(_model(mixer="attention")) == "torch"


def test_one_that_is_described_by_its_speed_alone():
    assert Hardware.of(tflops=2.0, gpus=3).peak("fp32", tf32=True) == 6e12
    on_cpu = Hardware.of(tflops=0.1, device="cpu")
    assert (on_cpu.backend(_model()), on_cpu.precision("auto")) == ("cpu", "fp32")


def test_precision_auto_is_planned_as_training_would_choose_it():
    assert Hardware.of("V100").precision("auto") == "fp32"  # which emulates bf16
    assert Hardware.of("V100").precision("bf16") == "bf16"
    assert Hardware.of("RTX 4090").precision("auto") == "bf16"
    assert Hardware.of("A100", device="cpu").precision("auto") == "fp32"


def test_of_this_machine_training_itself_is_asked(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert Hardware(torch.device("cuda"), "cuda", "Tesla V100-SXM2-16GB").precision("auto") == "fp32"
    assert Hardware(torch.device("cuda"), "cuda", "Quadro RTX 8000").precision("auto") == "fp32"


def test_this_one_has_no_peak_that_anybody_has_said():
    here = Hardware.of(device="cpu")
    assert here.device == torch.device("cpu")
    assert here.peak("fp32", tf32=True) is None
    assert here.peak("fp32", tf32=True, given_tflops=0.5) == 0.5e12
    assert len(here.utilisations) > 1
    assert not here.assumed


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"gpu": "A1000"}, "--gpu A1000"),
        ({"gpu": "TPU"}, "H100"),
        ({"gpu": "A100", "utilisation": 0.0}, "--utilisation 0"),
        ({"gpu": "A100", "utilisation": 30.0}, "0.3"),
    ],
)
def test_mistakes(flags, says):
    with pytest.raises(DiscliError) as refused:
        Hardware.of(**flags)
    assert says in f"{refused.value.message} {refused.value.hint}"
