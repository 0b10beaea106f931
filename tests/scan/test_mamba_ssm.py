"""How mamba-ssm's kernels are called, with doubles on the CPU that are as strict about dtypes as they are."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from discli.scan import mamba_ssm, reference
from tests.scan.cases import random_inputs


def _conv(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """causal-conv1d takes weights of another dtype than x, and answers in x's."""
    padded = F.pad(x.float(), (weight.shape[1] - 1, 0))
    return F.silu(F.conv1d(padded, weight.float().unsqueeze(1), bias.float(), groups=len(weight))).to(x.dtype)


def _scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor,
    delta_softplus: bool,
) -> Tensor:  # fmt: skip
    """selective_scan_cuda's own checks: A, D and delta_bias float32, all others of u's dtype."""
    assert {A.dtype, D.dtype, delta_bias.dtype} == {torch.float32}
    assert {delta.dtype, B.dtype, C.dtype, z.dtype} == {u.dtype}
    delta = F.softplus(delta.float() + delta_bias[:, None]).transpose(1, 2)
    x, B, C = (tensor.float().transpose(1, 2) for tensor in (u, B, C))
    y = reference.recurrence(x, delta, A, B, C, D).transpose(1, 2)
    return (y * F.silu(z.float())).to(u.dtype)


def _fused(
    xz: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_weight: Tensor, A: Tensor, B: None, C: None,
    D: Tensor, delta_bias: Tensor, delta_softplus: bool,
) -> Tensor:  # fmt: skip
    """The fork's function, which casts the two projections only where autocast is on."""
    x, z = xz.chunk(2, dim=1)
    if torch.is_autocast_enabled("cpu"):
        x_proj, dt_weight = (w.to(torch.get_autocast_dtype("cpu")) for w in (x_proj, dt_weight))
    x = _conv(x, conv_weight.squeeze(1), conv_bias, "silu")
    states, rank = A.shape[1], dt_weight.shape[1]
    dt, B_, C_ = (x.transpose(1, 2) @ x_proj.T).split([rank, states, states], dim=-1)
    delta = (dt @ dt_weight.T).transpose(1, 2)
    return _scan(x, delta, A, B_.transpose(1, 2), C_.transpose(1, 2), D, z, delta_bias, delta_softplus)


@pytest.fixture(params=["upstream", "the fork of vision models"])
def kernels(request, monkeypatch):
    modules = {name: ModuleType(name) for name in ("mamba_ssm", "mamba_ssm.ops", "causal_conv1d")}
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = _scan
    if request.param != "upstream":
        interface.mamba_inner_fn_no_out_proj = _fused
    modules["mamba_ssm.ops"].selective_scan_interface = interface
    modules["causal_conv1d"].causal_conv1d_fn = _conv
    for name, module in {**modules, interface.__name__: interface}.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_reference_in_x_s_dtype_with_float32_parameters(dtype, autocast, kernels):
    if autocast and dtype == torch.float32:
        pytest.skip("the model's projections have made bf16 of x then")
    inputs = random_inputs(2, 9, 32, dtype=dtype, param_dtype=torch.float32)
    expected = reference.bidirectional_scan(*inputs)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = mamba_ssm.bidirectional_scan(*inputs)
    assert found.dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(found, expected, **tolerance)
    found.float().sum().backward()
    assert all(tensor.grad.dtype == tensor.dtype for tensor in inputs.named().values())
