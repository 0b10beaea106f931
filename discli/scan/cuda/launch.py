"""The CUDA kernel of the backward scan: its machine code, and its launch by the driver's API."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discli.runtime.errors import DiscliError
from discli.scan.cuda.nvrtc import compile_cubin

STEPS = 8  # of a chunk, and between two states kept; with 4, twice the states for a quarter less time (modelled)
WARPS = 2  # of a program, 32 channels each: partial sums of dB and dC are of 64 channels
CHANNELS = 32 * WARPS
N = 16
_BLOCKS = 5  # of a multiprocessor, which its registers are to allow

SOURCE = Path(__file__).with_name("scan_backward.cu")
HEADERS = [Path(__file__).with_name("warp.h")]
DEFINES = {"STEPS": STEPS, "WARPS": WARPS, "MINBLOCKS": _BLOCKS, "EXACT": 0}

# Bytes: of a warp the states, delta and slope, x twice, draw and dy of a chunk; of the program B and C twice.
_SHARED = WARPS * (STEPS * 4 * 128 * 4 + 2 * STEPS * 32 * 4 + 4 * STEPS * 32 * 2) + 2 * STEPS * 2 * N * 4
_CARVEOUT, _DYNAMIC_SHARED = 9, 8  # of CUfunction_attribute


class Args(ctypes.Structure):
    """The kernel's one parameter, as scan_backward.cu has it."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("dy", "x", "draw", "BC", "A", "D", "bias", "states")),
        *((name, ctypes.c_void_p) for name in ("dx", "ddraw", "dBC", "dparams")),
        *((name, ctypes.c_int) for name in ("L", "E", "batch")),
    ]


def walk_back(
    dy: Tensor, conv: Tensor, draw: Tensor, BC: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `discli.scan.triton.pipeline.WalkBack`; contiguous tensors, the first three bf16, the others float32."""
    B, L, E = dy.shape
    blocks = -(-E // CHANNELS)
    dconv, ddraw = torch.empty_like(conv), torch.empty_like(draw)
    dBC_parts = A.new_empty(blocks, 2, B * L, 2 * N)
    param_parts = A.new_empty(B, 2, N + 2, E)
    tensors = (dy, conv, draw, BC, A, D, dt_bias, states, dconv, ddraw, dBC_parts, param_parts)
    run(Args(*(tensor.data_ptr() for tensor in tensors), L, E, B), blocks * 2 * B, dy.device)
    return dconv, ddraw, dBC_parts, param_parts


def run(args: Args, programs: int, device: torch.device) -> None:
    """Puts the kernel on the device's current stream."""
    driver, function = _function(device)
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(args))
    stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
    _check(driver.cuLaunchKernel(function, programs, 1, 1, 32 * WARPS, 1, 1, _SHARED, stream, pointers, None))


def cubin(arch: int) -> bytes:
    return compile_cubin(SOURCE, HEADERS, arch, DEFINES)


@cache
def _function(device: torch.device) -> tuple[Any, ctypes.c_void_p]:
    """The driver, and the kernel in the device's own context, which PyTorch has made current."""
    major, minor = torch.cuda.get_device_capability(device)
    code = cubin(10 * major + minor)
    driver = ctypes.CDLL("libcuda.so.1")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(driver.cuModuleLoadData(ctypes.byref(module), code))
    _check(driver.cuModuleGetFunction(ctypes.byref(function), module, b"scan_backward"))
    _check(driver.cuFuncSetAttribute(function, _DYNAMIC_SHARED, _SHARED))
    _check(driver.cuFuncSetAttribute(function, _CARVEOUT, 100))
    return driver, function


def _check(code: int) -> None:
    if code:
        raise DiscliError(f"The CUDA driver refuses the backward scan (error {code}).", "Use scan = 'triton'.")
