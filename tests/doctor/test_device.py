"""What nvidia-smi says, against what torch can use."""

import pytest
import torch

from discli.doctor import device
from discli.doctor.finding import CheckContext

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPUs here")


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Writes a program of that name, first on the path, of the lines given."""

    def write(*lines: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text("\n".join(["#!/bin/sh", *lines]))
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return write


@without_gpu
@pytest.mark.parametrize(
    ("cuda", "visible", "verdict", "fix"),
    [
        ("12.8", None, "error", "Update the driver"),
        ("12.8", "", "warning", "Unset"),
        (None, None, "warning", "CUDA build of torch"),
    ],
)
def test_gpus_that_torch_cannot_use(cuda, visible, verdict, fix, nvidia_smi, monkeypatch):
    nvidia_smi('echo "470.82.01, Tesla T4"', 'echo "470.82.01, Tesla T4"')
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (finding,) = device.driver(CheckContext())
    assert finding.verdict == verdict
    assert finding.found.startswith("470.82.01, with 2 of Tesla T4")
    assert fix in finding.fix
    assert finding.details["gpus"] == ["Tesla T4", "Tesla T4"]


def test_a_driver_that_does_not_answer_is_told_in_its_own_words(nvidia_smi):
    nvidia_smi('echo "NVIDIA-SMI has failed: no communication with the driver" >&2; exit 9')
    (finding,) = device.driver(CheckContext())
    assert finding.verdict == "warning"
    assert "no communication with the driver" in finding.found


def test_a_sound_processor_multiplies_within_rounding():
    assert 0 < device._multiply(torch.device("cpu")) <= device._RIGHT
