"""The peer to beat: mamba-ssm's CUDA kernels, called once per direction with flips between.

This is how bidirectional Mamba models are commonly run (Vision Mamba, arXiv:2401.09417; DiS). The
kernels stand outside of torch.library, so torch.compile breaks the graph here.
"""

import importlib
import importlib.util

import torch
from torch import Tensor
from torch.nn import functional as F

from discli.scan.reference import DirectionParams

# Left to itself, the build of mamba-ssm leaves this kernel out, and pip keeps what it has built.
_BUILD = "--no-cache-dir --no-build-isolation causal-conv1d mamba-ssm"
INSTALL = (
    f"where nvcc is installed, pip install wheel ninja packaging, then MAMBA_KEEP_CUDA_BUILD=TRUE pip install {_BUILD}."
)
REBUILD = f"where nvcc is installed, MAMBA_KEEP_CUDA_BUILD=TRUE pip install --force-reinstall --no-deps {_BUILD}."


def unavailable(device: torch.device) -> str | None:
    """Why mamba-ssm can't run on ``device`` and what to do about it, or None if it can."""
    if device.type != "cuda":
        return f"mamba-ssm's kernels are for CUDA and these tensors are on {device.type}; use scan = 'auto'."
    if importlib.util.find_spec("mamba_ssm") is None or importlib.util.find_spec("causal_conv1d") is None:
        return f"mamba-ssm or causal-conv1d is not installed; {INSTALL}"
    try:
        importlib.import_module("causal_conv1d_cuda")
        importlib.import_module("selective_scan_cuda")
        importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except Exception as error:  # a build for another torch or CUDA fails in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"mamba-ssm is installed without a working CUDA module ({reason.rstrip('.')}); {REBUILD}"
    return None


def bidirectional_scan(x: Tensor, z: Tensor, forward: DirectionParams, backward: DirectionParams) -> Tensor:
    """See `discli.scan`: two calls on (B, E, L) tensors, the second one on flipped tokens."""
    x_BEL, z_BEL = x.transpose(1, 2), z.transpose(1, 2)
    y_BEL = _one_direction(x_BEL, z_BEL, forward) + _one_direction(x_BEL.flip(-1), z_BEL.flip(-1), backward).flip(-1)
    return y_BEL.transpose(1, 2).to(x.dtype)


def _one_direction(x_BEL: Tensor, z_BEL: Tensor, p: DirectionParams) -> Tensor:
    from mamba_ssm.ops import selective_scan_interface as kernels

    A, D, dt_bias = -torch.exp(p.A_log.float()), p.D.float(), p.dt_bias.float()
    # As autocast would: the parameters are float32, and a product of two dtypes is refused.
    x_proj, dt_weight = p.x_proj.to(x_BEL.dtype), p.dt_weight.to(x_BEL.dtype)
    # The fork of mamba-ssm that vision models use fuses the whole direction; upstream lacks it.
    if fused := getattr(kernels, "mamba_inner_fn_no_out_proj", None):
        xz = torch.cat([x_BEL, z_BEL], dim=1)
        weights = (p.conv_weight.unsqueeze(1), p.conv_bias, x_proj, dt_weight)
        y: Tensor = fused(xz, *weights, A, None, None, D, delta_bias=dt_bias, delta_softplus=True)
        return y

    from causal_conv1d import causal_conv1d_fn

    N, R = p.A_log.shape[1], p.dt_weight.shape[1]
    x_BEL = causal_conv1d_fn(x_BEL, p.conv_weight, p.conv_bias, activation="silu")
    dt_BLR, B_BLN, C_BLN = torch.split(F.linear(x_BEL.transpose(1, 2), x_proj), [R, N, N], dim=-1)
    delta_BEL = F.linear(dt_BLR, dt_weight).transpose(1, 2).contiguous()
    B_BNL, C_BNL = B_BLN.transpose(1, 2).contiguous(), C_BLN.transpose(1, 2).contiguous()
    y = kernels.selective_scan_fn(
        x_BEL, delta_BEL, A, B_BNL, C_BNL, D, z=z_BEL.contiguous(), delta_bias=dt_bias, delta_softplus=True
    )
    return y
