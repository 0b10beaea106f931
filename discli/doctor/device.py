"""Where the tensors will be: PyTorch's build, the driver, and each GPU put to work for a moment."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial

import torch

from discli.doctor.finding import Checks, Finding, Setting, guarded
from discli.runtime.console import format_bytes
from discli.runtime.devices import pick_device

TITLE = "Device"

_QUERY = ("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader")
_PATIENCE = 20  # seconds; a GPU that fell off the bus makes nvidia-smi hang
_RIGHT = 1e-5  # relative, for sums of 256 products of float32 against float64: 256 * 2**-24 at the very most


def build(setting: Setting) -> Iterator[Finding]:
    runtime = torch.version.cuda
    kinds = {bool(runtime): f"built for CUDA {runtime}", bool(torch.version.hip): f"built for ROCm {torch.version.hip}"}
    details = {"cuda": runtime, "hip": torch.version.hip, "cudnn": torch.backends.cudnn.version()}
    yield Finding("torch build", "ok", kinds.get(True, "built for CPUs only"), details=details)


def driver(setting: Setting) -> Iterator[Finding]:
    """What nvidia-smi knows and torch may not: the GPUs of a machine whose torch cannot use them."""
    name = "NVIDIA driver"
    if shutil.which(_QUERY[0]) is None:
        yield Finding(name, "ok", "no nvidia-smi here")
        return
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        yield Finding(name, "problem", f"nvidia-smi gave no answer in {_PATIENCE} s", "Restart the machine.")
        return
    rows = [line.split(", ", 1) for line in done.stdout.splitlines() if ", " in line] if done.returncode == 0 else []
    if not rows:
        said = " ".join((done.stderr or done.stdout).split())
        yield Finding(name, "note", f"nvidia-smi finds no GPU: {said}", details={"gpus": []})
        return
    version, gpus = rows[0][0], [row[1] for row in rows]
    details, found = (
        {"version": version, "gpus": gpus},
        f"{version}, with {len(gpus)} of {', '.join(sorted(set(gpus)))}",
    )
    if torch.cuda.is_available():
        yield Finding(name, "ok", found, details=details)
    elif torch.version.cuda is None:
        remedy = "To use the GPU, install a CUDA build of torch and torchvision: pytorch.org/get-started."
        yield Finding(name, "note", f"{found}; this torch cannot use it", remedy, details)
    elif os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        hidden = f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} hides every GPU from torch"
        yield Finding(name, "note", f"{found}; {hidden}", "Unset it to use the GPU.", details)
    else:
        found = f"{found}; torch, built for CUDA {torch.version.cuda}, cannot use it"
        remedy = "Update the driver, or install a torch for an older CUDA: pytorch.org/get-started/previous-versions."
        yield Finding(name, "problem", found, remedy, details)


def gpus(setting: Setting) -> Iterator[Finding]:
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        setting.say(f"GPU {index}")
        yield from guarded(f"cuda:{index}", partial(_gpu, index))


def default(setting: Setting) -> Iterator[Finding]:
    """As train, sample and eval-fid pick it."""
    device = pick_device(None)
    found = f"{device}, where train, sample and eval-fid run unless told otherwise"
    yield Finding("default", "ok", found, details={"device": str(device)})


CHECKS: Checks = {"torch build": build, "NVIDIA driver": driver, "GPUs": gpus, "default": default}


def _gpu(index: int) -> Iterator[Finding]:
    known = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    version = f"{known.major}.{known.minor}"
    found = f"{known.name}, {format_bytes(total)}, {format_bytes(free)} free, compute capability {version}"
    details = {"name": known.name, "memory": total, "free": free, "capability": version}
    error = _multiply(torch.device("cuda", index))
    if error <= _RIGHT:
        yield Finding(f"cuda:{index}", "ok", found, details=details)
        return
    remedy = "Run it again, and CUDA_VISIBLE_DEVICES without this GPU: it may be defective."
    yield Finding(f"cuda:{index}", "problem", f"{found}; multiplies matrices wrongly ({error:.1e})", remedy, details)


def _multiply(device: torch.device) -> float:
    """The largest error of a float32 product of two 256 x 256 matrices, relative to its largest entry."""
    one, other = (torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = one.double() @ other.double()
    found = (one.to(device) @ other.to(device)).double().cpu()
    return ((found - exact).abs().max() / exact.abs().max()).item()
