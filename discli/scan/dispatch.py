"""Which backend runs the scan, and why: the one function that the model calls."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from discli.runtime.errors import DiscliError
from discli.scan.reference import DirectionParams

VARIABLE = "DISCLI_SCAN"
_MODULES = {
    "reference": "reference",
    "cpu": "cpu.backend",
    "cuda": "cuda.backend",
    "triton": "triton.backend",
    "mamba-ssm": "mamba_ssm",
}
# What "auto" tries, first to last, by the kind of device that holds the tensors.
_PREFERENCE = {"cuda": ("cuda", "triton", "mamba-ssm"), "cpu": ("cpu",)}

_Scan = Callable[[Tensor, Tensor, DirectionParams, DirectionParams], Tensor]
_ScanOfHalves = Callable[[Tensor, DirectionParams, DirectionParams], Tensor]


class Choice(NamedTuple):
    """A backend that can run, and one clause that says why it was chosen."""

    name: str
    reason: str


class _Backend(Protocol):
    bidirectional_scan: _Scan

    def unavailable(self, device: torch.device) -> str | None: ...


def bidirectional_scan(
    x: Tensor, z: Tensor, forward: DirectionParams, backward: DirectionParams, backend: str = "auto"
) -> Tensor:
    """Everything that the DiS mixer does between ``in_proj`` and ``out_proj`` (arXiv:2402.05608, 3.1).

    For each direction d, with its own parameters, the backward one walking the tokens from the last
    to the first:

        x' = SiLU(conv1d_d(x));  dt, B, C = split(x_proj_d x');  delta = softplus(dt_weight_d dt + dt_bias_d)
        h_t = exp(delta_t A_d) h_{t-1} + delta_t x'_t B_t,  A_d = -exp(A_log_d);  y_d = C_t . h_t + D_d x'_t

    and then y = (y_forward + y_backward) SiLU(z).

    Shapes: x and z (B, L, E) of any float dtype and any strides, y (B, L, E) in x's dtype; the
    parameters as in `DirectionParams`. The state is float32 whatever the inputs are, and float64
    when x is; under autocast too. Differentiable once, in x, z and all parameters. Linear in L.

    ``backend`` is a name that `choose_backend` knows; "auto" is resolved once per device.
    Raises `DiscliError` when a backend asked for by name can't run on x's device.
    """
    return _scans[_resolve(backend, x.device.type, x.device.index)](x, z, forward, backward)


def bidirectional_scan_of_halves(
    xz: Tensor, forward: DirectionParams, backward: DirectionParams, backend: str = "auto"
) -> Tensor:
    """As `bidirectional_scan`, of x and z that are the halves of one tensor (B, L, 2E), as ``in_proj`` makes them.

    On a CPU its gradient is written as one tensor too, where autograd would put two together.
    """
    return _scans_of_halves[_resolve(backend, xz.device.type, xz.device.index)](xz, forward, backward)


def choose_backend(name: str, device: torch.device, d_state: int | None = None) -> Choice:
    """The backend that ``name`` means on ``device``: a recipe's ``scan``, or DISCLI_SCAN if that is "auto".

    With ``d_state`` the reason also names what makes so many states slow there.
    Raises `DiscliError` if the name is unknown or the backend that it forces can't run there.
    """
    choice = _choose(name, device)
    caution = getattr(load_backend(choice.name), "caution", None)
    slow = caution(d_state) if caution is not None and d_state is not None else None
    return choice._replace(reason=f"{choice.reason}; {slow}") if slow else choice


def _choose(name: str, device: torch.device) -> Choice:
    asked_by = "the recipe"
    if name == "auto" and (override := os.environ.get(VARIABLE)):
        name, asked_by = override, VARIABLE
    if name != "auto" and name not in _MODULES:
        raise DiscliError(
            f"{asked_by} asks for the unknown scan {name!r}.", f"Use one of: auto, {', '.join(_MODULES)}."
        )
    if name != "auto":
        if problem := load_backend(name).unavailable(device):
            reason, _, remedy = problem.partition("; ")
            raise DiscliError(
                f"{asked_by} asks for the scan {name!r}, which can't run here: {reason.rstrip('.')}.",
                remedy[:1].upper() + remedy[1:],
            )
        return Choice(name, f"{asked_by} asks for it")

    passed_over: list[str] = []
    for candidate in _PREFERENCE.get(device.type, ()):
        problem = load_backend(candidate).unavailable(device)
        if problem is None:
            best = f"the fastest for {device.type} tensors"
            return Choice(candidate, "; ".join([best, *passed_over]))
        passed_over.append(f"not {candidate}: {problem.rstrip('.')}")
    return Choice("reference", "; ".join(passed_over) or f"the only one for {device.type} tensors")


def planned_backend(name: str, device_type: str) -> str:
    """What ``name`` will mean on a machine that is not this one, where all that it needs is installed."""
    return name if name != "auto" else _PREFERENCE[device_type][0]


@contextmanager
def assume_backend(name: str) -> Iterator[None]:
    """Scans within go to ``name`` whether or not it could run here: for fake tensors, which only have shapes."""
    global _assumed
    _take(name)
    _assumed = name
    try:
        yield
    finally:
        _assumed = None


def _resolve(name: str, device_type: str, device_index: int | None) -> str:
    """The name of the backend to run, of which _scans then holds the function."""
    if _assumed is not None:
        return _assumed
    key = (name, device_type, device_index, os.environ.get(VARIABLE))
    if key not in _resolved:
        _resolved[key] = choose_backend(name, torch.device(device_type, device_index or 0)).name
        _take(_resolved[key])
    return _resolved[key]


def _take(name: str) -> None:
    backend = load_backend(name)
    scan = backend.bidirectional_scan

    def split_and_scan(xz: Tensor, forward: DirectionParams, backward: DirectionParams) -> Tensor:
        x, z = xz.chunk(2, dim=-1)
        return scan(x, z, forward, backward)

    _scans[name] = scan
    _scans_of_halves[name] = getattr(backend, "bidirectional_scan_of_halves", split_and_scan)


# torch.compile runs this while it traces and keeps the answer: environment, imports and choice stay
# out of the graph, which sees one entry of _scans. torch.compiler.assume_constant_result would set
# just this, after importing all of torch._dynamo, about three seconds that sampling can do without.
_resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]

_resolved: dict[tuple[str, str, int | None, str | None], str] = {}
_scans: dict[str, _Scan] = {}
_scans_of_halves: dict[str, _ScanOfHalves] = {}
_assumed: str | None = None  # by assume_backend


def load_backend(name: str) -> _Backend:
    """The module of a backend, whether or not it can run here."""
    # Only here: numba, triton and mamba_ssm take long to import and may be missing or broken.
    return cast(_Backend, importlib.import_module(f"discli.scan.{_MODULES[name]}"))
