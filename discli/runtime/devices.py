"""Which device this process works on. Imports torch."""

import os
import platform
from pathlib import Path
from typing import Literal

import torch

from discli.runtime.errors import DiscliError
from discli.runtime.processes import local_rank


def pick_device(name: str | None) -> torch.device:
    """The device of that name; by default a GPU where there is one, this process's own under torchrun.

    Raises DiscliError for any other kind than CUDA's and the CPU, and for a GPU that PyTorch cannot use here.
    """
    gpus = torch.cuda.device_count()
    if name is None:
        name = own_gpu() if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        device = torch.device("meta")  # as good as none
    if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < gpus):
        return device
    usable = ", ".join([*(f"cuda:{index}" for index in range(gpus)), "cpu"])
    raise DiscliError(f"--device {name}: no such device here.", f"Use one of: {usable}.")


def own_gpu() -> str:
    """Which GPU this process works on: srun, unlike torchrun, may show each process no other than its own."""
    return f"cuda:{local_rank() % max(1, torch.cuda.device_count())}"


def auto_precision(device: torch.device) -> Literal["bf16", "fp32"]:
    """What a recipe's ``precision = "auto"`` means on ``device``, which is here."""
    native = device.type == "cuda" and (
        torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    )
    return precision_for(device.type, native_bf16=native)


def precision_for(device_type: str, *, native_bf16: bool) -> Literal["bf16", "fp32"]:
    """bf16 on GPUs that compute in it. NVIDIA's before Ampere emulate it, slower than float32."""
    return "bf16" if device_type == "cuda" and native_bf16 else "fp32"


def device_name(device: torch.device) -> str:
    """A GPU's or a processor's own name for itself, of a processor with the number of cores that are usable."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {len(os.sched_getaffinity(0))} cores"


def processor_name() -> str:
    """As Linux tells it; elsewhere the architecture."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
