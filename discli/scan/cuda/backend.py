"""The bidirectional scan with its backward walk in CUDA C++; all else is done by `discli.scan.triton`.

For bf16, 16 states and channels that come in eights; other inputs go to Triton whole. Not run on a GPU yet.
Counted for sm_90: 423 instructions per 512 states and 3 shuffles a step, where Triton's walk has 523 and 40.
"""

import math
from functools import cache

import torch
from torch import Tensor

from discli.runtime.errors import DiscliError
from discli.scan.cuda import launch, nvrtc
from discli.scan.reference import DirectionParams
from discli.scan.triton import backend as triton
from discli.scan.triton import pipeline

_TOLERANCE = 3e-2  # of a gradient's largest value, which bf16 rounds by 4e-3 a factor
_OLDEST = (8, 0)  # the first with TF32 products and asynchronous copies


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on ``device`` and what to do about it, in one line; None when it can."""
    if device.type != "cuda":
        return f"its kernel is for NVIDIA GPUs and these tensors are on {device.type}; use scan = 'auto'."
    if problem := triton.unavailable(device):
        return problem
    if nvrtc.library() is None:
        return "PyTorch's wheels bring no NVRTC here; pip install nvidia-cuda-nvrtc for torch's CUDA."
    if (found := torch.cuda.get_device_capability(device)) < _OLDEST:
        return f"it needs compute capability 8.0 and this GPU has {found[0]}.{found[1]}; use scan = 'triton'."
    return _differs(torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index))


@cache
def _differs(device: torch.device) -> str | None:
    """Compares one small backward pass with Triton's, once a process, for no GPU has run this kernel before.

    A word on it where they differ by more than bf16 rounds, or where the kernel does not start.
    """
    rng = torch.Generator().manual_seed(0)
    (B, L, E), N, R = (2, 35, 72), launch.N, 4

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=rng) * scale).to(device).requires_grad_()

    def direction() -> DirectionParams:
        D, bias = torch.ones(E, device=device), torch.full((E,), -4.0, device=device)
        A_log = torch.arange(1.0, N + 1).log().expand(E, N).to(device)
        projections = normal(R + 2 * N, E, scale=E**-0.5), normal(E, R, scale=R**-0.5)
        rest = (tensor.clone().requires_grad_() for tensor in (bias, A_log, D))
        return DirectionParams(normal(E, 4, scale=0.5), normal(E, scale=0.1), *projections, *rest)

    try:
        with torch.inference_mode(False), torch.enable_grad():  # whoever asks may be about to sample
            x, z, dy = (normal(B, L, E).detach().bfloat16() for _ in range(3))
            directions = direction(), direction()
            leaves = [x.requires_grad_(), z.requires_grad_(), *directions[0], *directions[1]]
            ours, theirs = (torch.autograd.grad(scan(x, z, *directions), leaves, dy) for scan in _CONTENDERS)
    except DiscliError as error:
        return error.message
    except (OSError, RuntimeError) as error:  # a library that is not there, or whatever a first run may meet
        return f"its first run fails here ({type(error).__name__}: {str(error).partition(chr(10))[0]})."
    errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True)]
    wrong = max(error if math.isfinite(error) else math.inf for error in errors)
    if wrong > _TOLERANCE:
        return f"its gradients differ from Triton's by {wrong:.1e} on this GPU; report this with the GPU's name."
    return None


def takes(x: Tensor, d_state: int) -> bool:
    """Whether the CUDA walk is written for such inputs."""
    return x.dtype == torch.bfloat16 and d_state == launch.N and x.shape[2] % 8 == 0


def caution(d_state: int) -> str | None:
    """See `discli.scan.triton.backend.caution`: other numbers of states than 16 go there."""
    return None if d_state == launch.N else triton.caution(d_state)


def bidirectional_scan(x: Tensor, z: Tensor, forward: DirectionParams, backward: DirectionParams) -> Tensor:
    """See `discli.scan.triton.backend.bidirectional_scan`, whose values these are to the bit."""
    if not takes(x, forward.A_log.shape[1]):
        return triton.bidirectional_scan(x, z, forward, backward)
    return pipeline.scan(_operator, x, z, forward, backward)


_CONTENDERS = (bidirectional_scan, triton.bidirectional_scan)
_operator = pipeline.operator("cuda_scan", launch.STEPS, lambda *given: launch.walk_back(*given))
