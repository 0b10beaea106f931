"""Each backend of the scan: whether it can run here, and whether the one in use computes what the reference does."""

import math
import os
from collections.abc import Iterator
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from discli.doctor.finding import Check, CheckContext, Finding, announce, error, guarded, ok, warning
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.scan import DirectionParams, choose_backend, mamba_ssm, reference
from discli.scan.cpu import backend as cpu
from discli.scan.cuda import backend as cuda
from discli.scan.dispatch import VARIABLE
from discli.scan.triton import backend as triton

TITLE = "Scan"

BACKENDS: dict[str, ModuleType] = {
    "reference": reference,
    "cpu": cpu,
    "cuda": cuda,
    "triton": triton,
    "mamba-ssm": mamba_ssm,
}

# One mixer of DiS-S/2 (arXiv:2402.05608, table 1), and more tokens than the 64 that the kernels take at once.
_E, _N, _K, _R, _L = 768, 16, 4, 24, 80
# In units of a tensor's largest value. The longest sum of float32 products has 768 terms, each off by 2**-24:
# 5e-5 at most, while TF32 is off by 1e-3. In bfloat16 the few rounded factors (2**-9 each) come to 1e-2.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def auto(context: CheckContext) -> Iterator[Finding]:
    """What a recipe's scan = "auto" means here."""
    device = pick_device(None)
    choice = choose_backend("auto", device)
    if device.type == "cuda" and choice.name == "reference" and not os.environ.get(VARIABLE):
        found = f"uses the reference, which is slow: {choice.reason}"
        yield error("auto", found, "Make triton or mamba-ssm work: see their fixes.", backend=choice.name)
    else:
        yield ok("auto", f"uses {choice.name}: {choice.reason}", backend=choice.name)


def backends(context: CheckContext) -> Iterator[Finding]:
    device = pick_device(None)
    try:
        chosen = choose_backend("auto", device).name
    except DiscliError:  # DISCLI_SCAN names one that cannot run: `auto` tells
        chosen = ""
    for name, module in BACKENDS.items():
        for finding in guarded(name, partial(_backend, name, module, device, name == chosen)):
            if name != chosen and finding.verdict == "error":  # a backend that auto passes over may be broken
                finding = finding.model_copy(update={"verdict": "warning"})
            yield finding


CHECKS: dict[str, Check] = {"auto": auto, "backends": backends}


def _backend(name: str, module: ModuleType, device: torch.device, chosen: bool) -> Iterator[Finding]:
    if reason := module.unavailable(device):
        what, _, fix = reason.rstrip(".").partition("; ")
        if device.type == "cuda" and name != "cpu":
            yield warning(name, what, fix, available=False)
        else:
            yield ok(name, f"not needed on {device.type}: {what}", available=False)
        return
    if not chosen:
        yield ok(name, "available, not in use", available=True)
        return
    announce(f"the scan {name}" + (", which compiles on its first use" if name in ("cuda", "triton") else ""))
    for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
        wrong, tensor = scan_error(module, device, dtype)
        if wrong > _TOLERANCE[dtype]:
            fix = f"Set {VARIABLE}=reference (slow), and report this with the output of discli doctor --json."
            if name == "reference":
                fix = "PyTorch computes wrongly: reinstall it, update the driver, test the memory."
            found = f"computes wrongly: {tensor} in {dtype} is off by {wrong:.1e} of its largest value"
            yield error(name, found, fix, available=True, error=wrong, tensor=tensor)
            return
    use = "in use, compiled for this processor" if name == "cpu" and cpu.HAS_NUMBA else "in use"
    yield ok(name, f"{use}; agrees with float64 to {wrong:.0e} in {dtype}", available=True, error=wrong)


def scan_error(module: ModuleType, device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """The largest error of y and all gradients, in units of that tensor's largest true value, and whose it is.

    x and z are in ``dtype`` and the parameters in float32, under autocast where they differ, as in training.
    The truth is `discli.scan.reference` in float64 on the CPU, given the same numbers. NaN counts as infinite.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    def direction() -> list[Tensor]:
        params = DirectionParams(
            conv_weight=normal(_E, _K, scale=_K**-0.5),
            conv_bias=normal(_E, scale=0.1),
            x_proj=normal(_R + 2 * _N, _E, scale=_E**-0.5),
            dt_weight=normal(_E, _R, scale=_R**-0.5),
            dt_bias=normal(_E) - 4,  # steps of about 0.02 after the softplus
            A_log=torch.arange(1.0, _N + 1).log().expand(_E, _N),
            D=torch.ones(_E),
        )
        return list(params)

    inputs = [normal(2, _L, _E).to(dtype), normal(2, _L, _E).to(dtype), *direction(), *direction()]
    names = ["x", "z", *(f"{side}.{name}" for side in ("forward", "backward") for name in DirectionParams._fields)]
    dy = normal(2, _L, _E).to(dtype)

    def values(scan: ModuleType, *given: Tensor) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in given[1:]]
        half = len(DirectionParams._fields) + 2
        y = scan.bidirectional_scan(*leaves[:2], DirectionParams(*leaves[2:half]), DirectionParams(*leaves[half:]))
        return [y.detach(), *torch.autograd.grad(y, leaves, given[0])]

    truth = values(reference, *(tensor.double() for tensor in (dy, *inputs)))
    with (
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),  # PyTorch allows it convolutions on its own
        torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        found = values(module, *(tensor.to(device) for tensor in (dy, *inputs)))
    errors = [
        ((one.cpu().double() - want).abs().max() / want.abs().max()).nan_to_num(math.inf).item()
        for one, want in zip(found, truth, strict=True)
    ]
    return max(zip(errors, ["y", *(f"the gradient of {name}" for name in names)], strict=True))
