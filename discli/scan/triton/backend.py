"""The bidirectional scan in Triton kernels, forward and backward, for CUDA (and Triton's interpreter).

`pipeline` has all but the walk back, `kernels` counts what that costs.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch
from packaging.version import Version
from torch import Tensor

from discli.scan.reference import DirectionParams
from discli.scan.triton import pipeline

# Steps between two states kept for the backward pass, counted from the start of each half. Here, beside
# no kernel: shapes are asked for where Triton is not installed.
CHUNK = 32

_OLDEST_TRITON = Version("3.3")  # the first with tuples in kernels
PYTHON_HEADERS = "install python{}.{}-dev, or what your system calls Python's headers".format(*sys.version_info)
_COMPILERS = ("gcc", "clang")  # what Triton itself looks for


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on ``device`` and what to do about it, in one line; None when it can."""
    try:
        import triton
    except ImportError:
        return "Triton is not installed; PyTorch's CUDA builds for Linux bring it (pip install triton)."
    if Version(triton.__version__) < _OLDEST_TRITON:
        return f"Triton {triton.__version__} is too old; upgrade PyTorch to 2.7 or newer, which brings Triton 3.3."
    if _interpreted():
        return None
    if device.type != "cuda":
        return f"Triton compiles for GPUs and this is {device.type}; use CUDA, or TRITON_INTERPRET=1 to debug."
    if torch.version.hip:
        return "Its kernels are written for NVIDIA GPUs and this is AMD's ROCm; choose another scan."
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA GPU; check nvidia-smi, and that this is a CUDA build of PyTorch."
    if not os.environ.get("CC") and not any(map(shutil.which, _COMPILERS)):
        return "Triton builds its launcher with a C compiler and finds none; install gcc, or name one in CC."
    if folder := without_python_headers():
        return f"Triton builds its launcher with Python.h, which is not in {folder}; {PYTHON_HEADERS}."
    return None


def caution(d_state: int) -> str | None:
    """What makes so many states slower than their number, in a clause; None for up to 16.

    Counted in machine code for sm_90 (`tests.bench.triton_static`), not timed.
    """
    spilled = {32: "1.1 KB", 64: "3.7 KB"}.get(pipeline.padded_states(d_state), "kilobytes")
    if d_state <= 16:
        return None
    return f"{d_state} states spill {spilled} of registers a thread in its backward pass, 16 next to nothing"


def without_python_headers() -> str | None:
    """Where Triton's C compiler will look for Python.h in vain, or None if it finds it."""
    scheme = sysconfig.get_default_scheme()
    folder = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    elsewhere = os.environ.get("CPATH") or os.environ.get("C_INCLUDE_PATH")
    return None if elsewhere or Path(folder, "Python.h").exists() else folder


def bidirectional_scan(x: Tensor, z: Tensor, forward: DirectionParams, backward: DirectionParams) -> Tensor:
    """As `discli.scan.bidirectional_scan`. x and z (B, L, E) in bf16, fp16, fp32 or fp64; y in x's dtype.

    Matrix products run in x's dtype, so parameters may stay float32 while x and z are bf16. The
    state is float32 (float64 for float64 inputs). The result for one sample does not depend on the
    others in its batch as far as these kernels go; cuBLAS may choose another algorithm for another
    number of rows. Differentiable once.
    """
    return pipeline.scan(_operator, x, z, forward, backward)


def _walk_back(
    dy: Tensor, conv: Tensor, draw: Tensor, BC: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `discli.scan.triton.pipeline.WalkBack`."""
    from discli.scan.triton import kernels_backward as kernels

    B, L, E = dy.shape
    N = A.shape[2]
    blocks = pipeline.cdiv(E, kernels.BLOCK)
    dconv, ddraw = torch.empty_like(conv), torch.empty_like(draw)
    dBC_parts = A.new_empty(blocks, 2, B * L, 2 * N)
    param_parts = A.new_empty(B, 2, N + 2, E)
    scratch = A.new_empty(blocks * 2 * B, CHUNK // kernels.GROUP, kernels.BLOCK, N)
    kernels.scan_backward[(blocks * 2 * B,)](
        dy, conv, draw, BC, A, D, dt_bias, states, scratch,
        dconv, ddraw, dBC_parts, param_parts, L, E, B,
        N=N, BLOCK=kernels.BLOCK, GROUP=kernels.GROUP, CHUNK=CHUNK, STATE=pipeline.triton_dtype(A.dtype),
        num_warps=kernels.SCAN_WARPS, **pipeline.FUSED,
    )  # fmt: skip
    return dconv, ddraw, dBC_parts, param_parts


_operator = pipeline.operator("triton_scan", CHUNK, _walk_back)


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
