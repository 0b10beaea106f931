"""Which device is how fast at most."""

import pytest
import torch

from discli.cost.peak import find_peak, peak_flops


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", True, 312),
        ("NVIDIA A100-SXM4-80GB", "fp32", True, 156),
        ("NVIDIA A100-SXM4-80GB", "fp32", False, 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", True, 989),
        ("NVIDIA H100 PCIe", "bf16", True, 756),
        ("h100 pcie", "bf16", True, 756),
        ("Tesla V100-SXM2-16GB", "fp32", True, 15.7),
        ("NVIDIA GeForce RTX 5090", "bf16", True, 209.5),
        ("NVIDIA B200", "bf16", True, 2250),
    ],
)
def test_known_devices(name, precision, tf32, tflops):
    assert find_peak(name, precision, tf32) == tflops * 1e12


def test_what_nobody_has_said_is_none_and_a_recipe_may_say_it():
    assert find_peak("Tesla V100-SXM2-16GB", "bf16", True) is None
    assert find_peak("Some Accelerator", "bf16", True) is None
    assert find_peak("NVIDIA RTX A1000", "bf16", True) is None
    assert peak_flops(torch.device("cpu"), "fp32", True, None) is None
    assert peak_flops(torch.device("cpu"), "fp32", True, 0.5) == 0.5e12
