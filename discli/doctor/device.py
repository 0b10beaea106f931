"""Where the tensors will be: PyTorch's build, the driver, and a product of two matrices on each GPU."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial

import torch

from discli.doctor.finding import Check, CheckContext, Finding, error, guarded, ok, warning
from discli.runtime.console import format_bytes
from discli.runtime.devices import pick_device

TITLE = "Device"

_QUERY = ("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader")
_PATIENCE = 20  # seconds; a GPU that fell off the bus makes nvidia-smi hang
_RIGHT = 1e-5  # relative, for sums of 256 products of float32 against float64: 256 * 2**-24 at the very most


def torch_device(context: CheckContext) -> Iterator[Finding]:
    """PyTorch's build, and the device that train, sample and eval-fid pick."""
    cuda, hip = torch.version.cuda, torch.version.hip
    built = f"built for CUDA {cuda}" if cuda else f"built for ROCm {hip}" if hip else "built for CPUs only"
    device = str(pick_device(None))
    yield ok("device", f"{device} without --device; torch is {built}", device=device, cuda=cuda, hip=hip)


def driver(context: CheckContext) -> Iterator[Finding]:
    """What nvidia-smi knows and torch may not: the GPUs of a machine whose torch cannot use them."""
    name, hidden = "NVIDIA driver", os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which(_QUERY[0]) is None:
        yield ok(name, "no nvidia-smi here")
        return
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        yield error(name, f"nvidia-smi gave no answer in {_PATIENCE} s", "Restart the machine.")
        return
    rows = [line.split(", ", 1) for line in done.stdout.splitlines() if ", " in line] if done.returncode == 0 else []
    if not rows:
        said = " ".join((done.stderr or done.stdout).split())
        yield warning(name, f"nvidia-smi finds no GPU: {said}", "If there is one, reinstall its driver.", gpus=[])
        return
    version, names = rows[0][0], [row[1] for row in rows]
    found = f"{version}, with {len(names)} of {', '.join(sorted(set(names)))}"
    if torch.cuda.is_available():
        yield ok(name, found, version=version, gpus=names)
    elif torch.version.cuda is None:
        fix = "To use the GPU, install a CUDA build of torch and torchvision: pytorch.org/get-started."
        yield warning(name, f"{found}; this torch cannot use it", fix, version=version, gpus=names)
    elif hidden is not None:
        found = f"{found}; CUDA_VISIBLE_DEVICES={hidden} hides every GPU from torch"
        yield warning(name, found, "Unset it to use the GPU.", version=version, gpus=names)
    else:
        found = f"{found}; torch, built for CUDA {torch.version.cuda}, cannot use it"
        fix = "Update the driver, or install a torch for an older CUDA: pytorch.org/get-started/previous-versions."
        yield error(name, found, fix, version=version, gpus=names)


def gpus(context: CheckContext) -> Iterator[Finding]:
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield from guarded(f"cuda:{index}", partial(_gpu, index))


CHECKS: dict[str, Check] = {"device": torch_device, "NVIDIA driver": driver, "GPUs": gpus}


def _gpu(index: int) -> Iterator[Finding]:
    name, known = f"cuda:{index}", torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    version = f"{known.major}.{known.minor}"
    found = f"{known.name}, {format_bytes(total)}, {format_bytes(free)} free, compute capability {version}"
    wrong = _multiply(torch.device("cuda", index))
    if wrong <= _RIGHT:
        yield ok(name, found, model=known.name, memory=total, free=free, capability=version)
    else:
        fix = "Run it again. If it stays wrong, leave this GPU out of CUDA_VISIBLE_DEVICES: it may be defective."
        yield error(name, f"{found}; multiplies matrices wrongly ({wrong:.1e})", fix, error=wrong)


def _multiply(device: torch.device) -> float:
    """The largest error of a float32 product of two 256 x 256 matrices, relative to its largest entry."""
    one, other = (torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = one.double() @ other.double()
    found = (one.to(device) @ other.to(device)).double().cpu()
    return ((found - exact).abs().max() / exact.abs().max()).item()
