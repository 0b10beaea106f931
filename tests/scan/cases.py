"""Inputs for the scan, and the one comparison that every backend has to pass."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from discli.scan import reference
from discli.scan.reference import DirectionParams

Scan = Callable[[Tensor, Tensor, DirectionParams, DirectionParams], Tensor]


class ScanInputs(NamedTuple):
    """The four arguments of a `bidirectional_scan`; every tensor is a leaf that requires grad."""

    x: Tensor  # (B, L, E)
    z: Tensor  # (B, L, E)
    forward: DirectionParams
    backward: DirectionParams

    def named(self) -> dict[str, Tensor]:
        """All 16 tensors, each by the name that a failing test should print."""
        directions = {"forward": self.forward, "backward": self.backward}
        params = {f"{side}.{name}": t for side, p in directions.items() for name, t in p._asdict().items()}
        return {"x": self.x, "z": self.z, **params}

    def map(self, change: Callable[[Tensor], Tensor]) -> "ScanInputs":
        """The same inputs with ``change`` applied to all 16 tensors."""
        x, z, *params = (change(t) for t in self.named().values())
        half = len(DirectionParams._fields)
        return ScanInputs(x, z, DirectionParams(*params[:half]), DirectionParams(*params[half:]))


def random_inputs(
    batch: int,
    length: int,
    d_inner: int,
    *,
    d_state: int = 16,
    d_conv: int = 4,
    dt_rank: int | None = None,
    dtype: torch.dtype = torch.float32,
    param_dtype: torch.dtype | None = None,
    device: str = "cpu",
    delta: float | None = None,
    A_log: tuple[float, float] | None = None,
    contiguous: bool = True,
    seed: int = 0,
) -> ScanInputs:
    """Random inputs with the model's initialisation, or with extremes of it.

    ``dtype`` is that of x and z, ``param_dtype`` that of the parameters (the same unless given).
    ``delta`` puts every step size near that value instead of within 1e-3..1e-1; ``A_log`` draws
    A_log uniformly between two bounds instead of log(1..N). ``contiguous=False`` gives x and z the
    layouts of real life: x one half of a wider projection, z a transposed (B, E, L) tensor.
    """
    rng = torch.Generator().manual_seed(seed)
    rank = dt_rank or max(1, math.ceil(d_inner / 32))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    def uniform(*shape: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=rng, dtype=torch.float64)

    def direction() -> DirectionParams:
        steps = uniform(d_inner, low=math.log(1e-3), high=math.log(1e-1)).exp()
        dt_scale = rank**-0.5
        if delta is not None:
            steps, dt_scale = delta * uniform(d_inner, low=0.9, high=1.1), 1e-3
        return DirectionParams(
            conv_weight=normal(d_inner, d_conv) * d_conv**-0.5,
            conv_bias=normal(d_inner) * 0.1,
            x_proj=normal(rank + 2 * d_state, d_inner) * d_inner**-0.5,
            dt_weight=normal(d_inner, rank) * dt_scale,
            dt_bias=steps + torch.log(-torch.expm1(-steps)),  # softplus^-1
            A_log=(
                uniform(d_inner, d_state, low=A_log[0], high=A_log[1])
                if A_log
                else torch.arange(1.0, d_state + 1, dtype=torch.float64).log().expand(d_inner, d_state).clone()
            ),
            D=1 + 0.1 * normal(d_inner),
        )

    x, z = normal(batch, length, d_inner), normal(batch, length, d_inner)
    drawn = ScanInputs(x, z, direction(), direction())
    cast = drawn.map(lambda t: t.to(device=device, dtype=param_dtype or dtype))
    x, z = x.to(device=device, dtype=dtype), z.to(device=device, dtype=dtype)
    if not contiguous:
        x = torch.cat([x, x], dim=-1)[..., :d_inner]
        z = z.transpose(1, 2).contiguous().transpose(1, 2)
    return cast._replace(x=x, z=z).map(lambda t: t.detach().requires_grad_())


def values_and_gradients(scan: Scan, inputs: ScanInputs) -> dict[str, Tensor]:
    """y under the name "y" and the gradient of a fixed random projection of y for each input."""
    leaves = inputs.map(lambda t: t.detach().requires_grad_())
    y = scan(*leaves)
    rng = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=rng).to(y)
    named = leaves.named()
    return {"y": y.detach(), **dict(zip(named, torch.autograd.grad(y, list(named.values()), dy), strict=True))}


def errors_against_reference(scan: Scan, inputs: ScanInputs) -> dict[str, float]:
    """Largest error of y and of all 16 gradients, each relative to the largest true value.

    The truth is `discli.scan.reference` in float64 on the CPU, fed the very numbers (bf16 ones
    too) that the backend saw.
    """
    truth = values_and_gradients(reference.bidirectional_scan, inputs.map(lambda t: t.detach().cpu().double()))
    found = values_and_gradients(scan, inputs)
    dtypes = {"y": inputs.x.dtype, **{name: t.dtype for name, t in inputs.named().items()}}
    errors = {}
    for name, want in truth.items():
        got = found[name]
        assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
        assert got.dtype == dtypes[name], f"{name}: {got.dtype}, not {dtypes[name]}"
        scale = want.abs().max().clamp_min(1e-30)
        error = ((got.cpu().double() - want).abs().max() / scale).item()
        errors[name] = error if math.isfinite(error) else math.inf
    return errors


def assert_matches_reference(scan: Scan, inputs: ScanInputs, tolerance: float) -> None:
    """Every value and gradient within ``tolerance`` of float64, in units of the largest true value."""
    errors = errors_against_reference(scan, inputs)
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not wrong, f"errors above {tolerance:g}: {wrong}"


def pass_interpreted(tests: Path) -> None:
    """Runs a file of tests in a process of its own, in which Triton interprets its kernels."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
