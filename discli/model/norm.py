"""RMSNorm, and the sum of the two streams that it is taken of: one pass over memory on a CPU."""

import importlib.util

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

# A multiple of every processor's LANES; other widths take PyTorch's operations.
_WIDTHS = 16
_HAS_NUMBA = importlib.util.find_spec("numba") is not None  # looked for, not imported


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, x in float32 or wider."""

    def __init__(self, embed_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(embed_dim))
        self.eps = eps

    def forward(
        self, residual: Tensor | None, hidden: Tensor, drop_path: Tensor | None, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """residual + drop_path * hidden, in float32 or wider, and its norm in ``dtype``, by default as wide.

        residual and hidden (B, L, D), drop_path (B,) factors; both answers (B, L, D). Without a residual
        nothing is scaled.
        """
        if _fits_kernel(residual, hidden, self.weight):
            factors = None if residual is None or drop_path is None else drop_path.float()
            added, normed, _ = _add_and_norm(residual, hidden, factors, self.weight, self.eps, dtype or torch.float32)
            return added, normed
        added = add_residual(residual, hidden, drop_path)
        normed = nn.functional.rms_norm(added, added.shape[-1:], self.weight, self.eps)
        return added, normed if dtype is None else normed.to(dtype)


def add_residual(residual: Tensor | None, hidden: Tensor, drop_path: Tensor | None) -> Tensor:
    """residual + drop_path * hidden, (B, L, D) and (B,), in float32 or wider, whatever autocast made of hidden."""
    wide = hidden if hidden.dtype == torch.float64 else hidden.float()
    if residual is None:
        return wide
    return residual + (wide if drop_path is None else drop_path.to(wide.dtype)[:, None, None] * wide)


def _fits_kernel(residual: Tensor | None, hidden: Tensor, weight: Tensor) -> bool:
    floats = [weight] if residual is None else [weight, residual]
    return (
        _HAS_NUMBA
        and hidden.device.type == "cpu"
        and hidden.shape[-1] % _WIDTHS == 0
        and hidden.dtype in (torch.float32, torch.bfloat16)
        and all(tensor.dtype == torch.float32 for tensor in floats)
    )


@torch.library.custom_op("discli::add_and_norm", mutates_args=(), device_types="cpu")
def _add_and_norm(
    residual: Tensor | None, hidden: Tensor, drop_path: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    from discli.model.norm_kernel import add_and_norm

    return add_and_norm(residual, hidden, drop_path, weight, eps, dtype)


@torch.library.custom_op("discli::add_and_norm_backward", mutates_args=(), device_types="cpu")
def _add_and_norm_backward(
    dsum: Tensor | None,
    dnormed: Tensor,
    added: Tensor,
    inverse_rms: Tensor,
    drop_path: Tensor | None,
    weight: Tensor,
    hidden_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    from discli.model.norm_kernel import add_and_norm_backward

    return add_and_norm_backward(dsum, dnormed, added, inverse_rms, drop_path, weight, hidden_dtype)


@_add_and_norm.register_fake
def _(
    residual: Tensor | None, hidden: Tensor, drop_path: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    shape = hidden.shape
    return (
        hidden.new_empty(shape, dtype=torch.float32),
        hidden.new_empty(shape, dtype=dtype),
        hidden.new_empty(shape[:2], dtype=torch.float32),
    )


@_add_and_norm_backward.register_fake
def _(
    dsum: Tensor | None,
    dnormed: Tensor,
    added: Tensor,
    inverse_rms: Tensor,
    drop_path: Tensor | None,
    weight: Tensor,
    hidden_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    dhidden = torch.empty_like(added, dtype=hidden_dtype) if hidden_dtype else added.new_empty(0)
    return torch.empty_like(added), dhidden, torch.empty_like(weight)


def _keep(
    ctx: FunctionCtx,
    inputs: tuple[Tensor | None, Tensor, Tensor | None, Tensor, float, torch.dtype],
    output: tuple[Tensor, Tensor, Tensor],
) -> None:
    residual, hidden, drop_path, weight, *_ = inputs
    added, _, inverse_rms = output
    ctx.save_for_backward(added, inverse_rms, drop_path, weight)  # type: ignore[arg-type]
    ctx.hidden_dtype, ctx.has_residual = hidden.dtype, residual is not None  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)


def _backward(
    ctx: FunctionCtx, dsum: Tensor | None, dnormed: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    added, inverse_rms, drop_path, weight = ctx.saved_tensors  # type: ignore[attr-defined]
    if dnormed is None:
        dnormed = torch.zeros_like(added)
    # Without a factor, and in one precision, both streams have the same gradient.
    shared = drop_path is None and ctx.hidden_dtype == added.dtype  # type: ignore[attr-defined]
    dresidual, dhidden, dweight = _add_and_norm_backward(
        dsum,
        dnormed,
        added,
        inverse_rms,
        drop_path,
        weight,
        None if shared else ctx.hidden_dtype,  # type: ignore[attr-defined]
    )
    of_residual = dresidual if ctx.has_residual else None  # type: ignore[attr-defined]
    return of_residual, dresidual if shared else dhidden, None, dweight, None, None


_add_and_norm.register_autograd(_backward, setup_context=_keep)
