"""Compilers and kernels from elsewhere that make CUDA faster. On a CPU none of them is of use."""

import importlib
import os
import shutil
from collections.abc import Iterator

import torch

from discli.doctor.finding import Checks, Finding, Setting, one_line
from discli.scan.mamba_ssm import INSTALL, REBUILD
from discli.scan.triton.backend import PYTHON_HEADERS, without_python_headers

TITLE = "Kernels for CUDA"

_NOT_HERE = "no use without a GPU"


def triton(setting: Setting) -> Iterator[Finding]:
    imported = setting.imports["triton"]
    on_cuda = torch.cuda.is_available()
    if imported.missing:
        remedy = "pip install triton, or a CUDA build of torch for Linux, which brings it." if on_cuda else ""
        yield Finding("Triton", "note", f"not installed{_unless(on_cuda)}", remedy)
        return
    if imported.error:
        remedy = "pip install --force-reinstall torch triton" if on_cuda else ""
        yield Finding("Triton", "note", f"{imported.error}{_unless(on_cuda)}", remedy)
        return
    details = {"version": imported.version, "driver": None}
    try:
        target = importlib.import_module("triton.runtime.driver").driver.active.get_current_target()
    except Exception as error:  # RuntimeError: 0 active drivers, and what a broken driver may raise
        found = f"{imported.version}, finds no driver to run on"
        remedy = f"Triton says: {one_line(error)}" if on_cuda else ""
        yield Finding("Triton", "note", f"{found}{_unless(on_cuda)}", remedy, details)
        return
    details["driver"] = f"{target.backend} {target.arch}"
    yield Finding("Triton", "ok", f"{imported.version}, compiles for {details['driver']}", details=details)


def c_compiler(setting: Setting) -> Iterator[Finding]:
    """Triton compiles the launcher of its kernels with it, and with Python's headers."""
    found = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    on_cuda = torch.cuda.is_available()
    if found and shutil.which(found):
        if folder := without_python_headers():
            remedy = f"For Triton, {PYTHON_HEADERS}." if on_cuda else ""
            yield Finding("C compiler", "note", f"{found}, but no Python.h in {folder}{_unless(on_cuda)}", remedy)
        else:
            yield Finding("C compiler", "ok", found)
    elif found:
        remedy = "Name one that is there, or unset CC."
        yield Finding("C compiler", "note", f"CC={found} is no program{_unless(on_cuda)}", remedy)
    else:
        remedy = "Install gcc, or name a compiler in CC: Triton needs one." if on_cuda else ""
        yield Finding("C compiler", "note", f"none{_unless(on_cuda)}", remedy)


def mamba_ssm(setting: Setting) -> Iterator[Finding]:
    """Its pip build leaves out the CUDA module that DiS needs, unless asked, and pip keeps such builds."""
    package, module = setting.imports["mamba_ssm.ops.selective_scan_interface"], setting.imports["selective_scan_cuda"]
    absent = package.missing and module.missing
    if not absent and module.missing:
        found = "without its CUDA kernel of Mamba-1: built without it, or taken from pip's cache of such builds"
        yield _optional("mamba-ssm", f"{package.version or 'installed'}, {found}", REBUILD, "without kernel")
    elif not absent and (module.error or package.error):
        found = f"does not load, being built for another torch or CUDA ({module.error or package.error})"
        yield _optional("mamba-ssm", f"{package.version} {found}".strip(), REBUILD, "broken")
    else:
        yield from _installed("mamba-ssm", package.version, absent)


def causal_conv1d(setting: Setting) -> Iterator[Finding]:
    """mamba-ssm's scan is of use only together with it."""
    package, module = setting.imports["causal_conv1d"], setting.imports["causal_conv1d_cuda"]
    error = module.error or package.error or ("its CUDA module is missing" if module.missing else "")
    if not package.missing and error:
        yield _optional("causal-conv1d", f"{package.version} does not load ({error})".strip(), REBUILD, "broken")
    else:
        yield from _installed("causal-conv1d", package.version, package.missing)


CHECKS: Checks = {
    "Triton": triton,
    "C compiler": c_compiler,
    "mamba-ssm": mamba_ssm,
    "causal-conv1d": causal_conv1d,
}


def _installed(name: str, version: str, absent: bool) -> Iterator[Finding]:
    if not absent:
        yield Finding(name, "ok", f"{version}, with its CUDA kernel".removeprefix(", "), details={"state": "whole"})
    elif torch.cuda.is_available():
        yield _optional(name, "not installed; optional beside Triton's kernels", INSTALL, "absent")
    else:
        yield _optional(name, f"not installed; optional, {_NOT_HERE}", "", "absent")


def _optional(name: str, found: str, remedy: str, state: str) -> Finding:
    return Finding(name, "note", found, remedy, {"state": state})


def _unless(on_cuda: bool) -> str:
    return "" if on_cuda else f"; {_NOT_HERE}"
