"""Each backend of the scan: whether it can run here, whether it computes what the reference does, how fast."""

import os
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch

from discli.doctor.finding import Checks, Finding, Setting, guarded
from discli.doctor.scan_trial import STATE, WIDTH, Trial
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.scan import choose_backend, mamba_ssm, reference
from discli.scan.cpu import backend as cpu
from discli.scan.dispatch import VARIABLE
from discli.scan.triton import backend as triton

TITLE = f"Scan (one mixer of DiS-S/2: {WIDTH} channels, {STATE} states)"

# The reference first: the others are compared with its speed.
BACKENDS: dict[str, ModuleType] = {"reference": reference, "cpu": cpu, "triton": triton, "mamba-ssm": mamba_ssm}

CHECKED = 80  # tokens: more than the 64 that the kernels take at once, and soon done in float64
TIMED = 256  # tokens: 32 x 32 latents in patches of 2 x 2
_BATCH = {"cuda": 16, "cpu": 2}  # timed; fewer samples would leave a GPU idle


def backends(setting: Setting) -> Iterator[Finding]:
    device = pick_device(None)
    # What training computes in; float32 as well, for that is where a small mistake shows.
    dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
    setting.say("the scan in float64, to compare with")
    trials = [Trial(device, dtype, CHECKED) for dtype in dtypes]
    chosen = _chosen(device)
    baseline: float | None = None
    for name, module in BACKENDS.items():
        for finding in guarded(name, partial(_backend, setting, name, module, trials, baseline)):
            if name == "reference" and "seconds" in finding.details:
                baseline = finding.details["seconds"]
            yield finding if name in (chosen, "reference") else _not_needed(finding)


def auto(setting: Setting) -> Iterator[Finding]:
    """What a recipe's scan = "auto" means here."""
    device = pick_device(None)
    choice = choose_backend("auto", device)
    details = {"backend": choice.name, "device": str(device)}
    if device.type == "cuda" and choice.name == "reference" and not os.environ.get(VARIABLE):
        found = f"takes the reference, which is slow: {choice.reason}"
        yield Finding("auto", "problem", found, "Make one of the kernels run: see their lines.", details)
        return
    yield Finding("auto", "ok", f"takes {choice.name}: {choice.reason}", details=details)


CHECKS: Checks = {"backends": backends, "auto": auto}


def _chosen(device: torch.device) -> str:
    try:
        return choose_backend("auto", device).name
    except DiscliError:  # DISCLI_SCAN names one that cannot run: `auto` tells
        return "reference"


def _backend(
    setting: Setting, name: str, module: ModuleType, trials: list[Trial], baseline: float | None
) -> Iterator[Finding]:
    device = trials[0].device
    if reason := module.unavailable(device):
        what, _, remedy = reason.rstrip(".").partition("; ")
        remedy = remedy if device.type == "cuda" and name != "cpu" else ""
        yield Finding(name, "note", what, remedy, {"available": False, "reason": reason})
        return
    if name == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        found = "interpreted (TRITON_INTERPRET=1), to look for mistakes; not checked"
        yield Finding(name, "note", found, "Unset TRITON_INTERPRET.", {"available": True})
        return
    setting.say(f"the scan {name}" + (", compiled on its first use" if name in ("cpu", "triton") else ""))
    errors = {str(trial.dtype).removeprefix("torch."): trial.errors(module.bidirectional_scan) for trial in trials}
    details: dict[str, Any] = {"available": True} | {
        "errors": {dtype: error._asdict() for dtype, error in errors.items()},
        "tolerances": {str(trial.dtype).removeprefix("torch."): trial.tolerance for trial in trials},
    }
    for trial, (dtype, error) in zip(trials, errors.items(), strict=True):
        if error.largest > trial.tolerance:
            found = (
                f"computes wrongly: in {dtype} the largest error, of {error.tensor}, is {error.largest:.1e} of its"
                f" largest value, and {trial.tolerance:.0e} is allowed"
            )
            yield Finding(name, "problem", found, _remedy_for_wrong(name), details)
            return
    batch, last = _BATCH.get(device.type, 2), trials[-1]
    seconds = last.seconds(module.bidirectional_scan, batch, TIMED)
    rate = batch * TIMED / seconds
    ratio = f", {baseline / seconds:.3g} times the reference" if baseline else ""
    details |= {
        "seconds": seconds,
        "tokens_per_second": rate,
        "batch": batch,
        "length": TIMED,
        "dtype": str(last.dtype),
    }
    if baseline:
        details["times_reference"] = baseline / seconds
    within = " and ".join(
        f"{e.largest:.0e} ({t.tolerance:.0e} allowed)" for t, e in zip(trials, errors.values(), strict=True)
    )
    yield Finding(
        name,
        "ok",
        f"agrees with float64 to {within}; {rate:,.0f} tokens/s forward and backward{ratio}",
        details=details,
    )


def _remedy_for_wrong(name: str) -> str:
    if name == "reference":
        return "PyTorch itself computes wrongly here: install it again, update the driver, test the memory."
    return f"Set {VARIABLE}=reference (slow, and right), and report it with what discli doctor --json says."


def _not_needed(finding: Finding) -> Finding:
    """A backend that auto passes over may be broken without harm."""
    if finding.verdict != "problem":
        return finding
    return Finding(finding.name, "note", f"{finding.found}; auto does not use it", finding.remedy, finding.details)
