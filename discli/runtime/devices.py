"""Which device this process works on. Imports torch."""

import os
import platform
import time
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

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


class Precision(NamedTuple):
    """Of the matrix products; the residual stream, norms, sums and the loss are float32 in both."""

    name: Literal["bf16", "fp32"]
    reason: str = ""  # where it was found out

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def settle_precision(wanted: Literal["auto", "bf16", "fp32"], device: torch.device) -> Precision:
    """What a recipe's ``precision`` means on ``device``, which is here."""
    if wanted != "auto":
        return Precision(wanted)
    if device.type == "cuda":
        native = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
        return Precision(gpu_precision(native_bf16=native))
    if not _cpu_has_bf16():
        return Precision("fp32")
    gain = bf16_gain_on_cpu()
    name: Literal["bf16", "fp32"] = "bf16" if gain >= _WORTH_IT else "fp32"
    return Precision(name, f"bf16 products are {gain:.1f} times as fast here")


def gpu_precision(*, native_bf16: bool) -> Literal["bf16", "fp32"]:
    """bf16 on GPUs that compute in it. NVIDIA's before Ampere emulate it, slower than float32."""
    return "bf16" if native_bf16 else "fp32"


# Rounding activations to bf16 and back takes some of what faster products give.
_WORTH_IT = 1.3


def _cpu_has_bf16() -> bool:
    """Whether oneDNN has products in bf16 for this processor, if only slow ones."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return False


@cache
def bf16_gain_on_cpu() -> float:
    """How many times as fast as float32 products those in bf16 are, by a trial of some 30 ms.

    Having the instructions says little: on a Sapphire Rapids with AVX-512's and without AMX they are half as
    fast. Processor time is counted, which others on a busy machine do not add to.
    """
    pairs = [
        (torch.ones(512, 384, dtype=kind), torch.ones(384, 768, dtype=kind)) for kind in (torch.float32, torch.bfloat16)
    ]
    best = [float("inf")] * 2
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for turn in range(6):
            for kind, (a, b) in enumerate(pairs):
                started = time.thread_time()
                a @ b
                if turn:  # the first prepares kernels
                    best[kind] = min(best[kind], time.thread_time() - started)
    return best[0] / best[1]


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
