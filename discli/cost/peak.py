"""The most a device could compute: what model FLOP utilisation (arXiv:2204.02311, appendix B) is a share of."""

import re

import torch

# TFLOP/s without sparsity, from the makers' data sheets: bfloat16 on tensor cores, TF32, float32.
# The first entry whose words the device's name contains is taken.
_KNOWN: tuple[tuple[str, float | None, float | None, float], ...] = (
    ("B200", 2250.0, 1125.0, 75.0),
    ("H200", 989.0, 494.0, 67.0),
    ("H100 NVL", 835.0, 417.0, 60.0),
    ("H100 PCIe", 756.0, 378.0, 51.0),
    ("H100", 989.0, 494.0, 67.0),
    ("A100", 312.0, 156.0, 19.5),
    ("L40S", 362.0, 183.0, 91.6),
    ("RTX 5090", 209.5, 104.8, 104.8),
    ("RTX 4090", 165.2, 82.6, 82.6),
    ("RTX 3090", 71.0, 35.6, 35.6),
    ("RTX A6000", 154.8, 77.4, 38.7),
    ("V100", None, None, 15.7),
)


def peak_flops(device: torch.device, precision: str, tf32: bool, given_tflops: float | None) -> float | None:
    """FLOP/s of one device at the precision that the products run in; None where nobody has said."""
    if given_tflops is not None:
        return given_tflops * 1e12
    return find_peak(torch.cuda.get_device_name(device), precision, tf32) if device.type == "cuda" else None


def find_peak(name: str, precision: str, tf32: bool) -> float | None:
    """`peak_flops` by the device's name, as torch.cuda.get_device_name gives it or a person types it."""
    for part, bf16, tensor, plain in _KNOWN:
        if re.search(rf"\b{part}\b", name, re.IGNORECASE):  # whole words: an A1000 is no A100
            tflops = bf16 if precision == "bf16" else tensor if tf32 and tensor else plain
            return tflops * 1e12 if tflops else None
    return None


def known_devices() -> list[str]:
    """The names that `find_peak` looks for."""
    return [name for name, *_ in _KNOWN]
