"""One backend of the scan put to the test: its values and gradients against float64, and its speed."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discli.scan import DirectionParams, reference

Scan = Callable[[Tensor, Tensor, DirectionParams, DirectionParams], Tensor]

# One mixer of DiS-S/2 (arXiv:2402.05608, table 1): embed_dim 384, and twice as wide within.
WIDTH, STATE, KERNEL, RANK = 768, 16, 4, 24

# In units of a tensor's largest true value. A sum of n float32 products is off by n * 2**-24 at the very
# most, and the longest, over the width, has 768 terms: 5e-5; those of the recurrence decay. What is
# observed is 1e-6 to 1e-5, and a wrong term or TF32's 11 bits show as 1e-3. In bfloat16, x and
# every factor of a product have 8 bits, 2**-9 each: the few that follow each other come to about 1e-2.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}

_FEW, _MANY = 3, 20  # calls to take the median of
_SECONDS, _TOO_LONG = 1.5, 6.0  # after which few calls are enough, and after which any number is


class Inputs(NamedTuple):
    """What a scan is called with; every tensor asks for a gradient."""

    x: Tensor  # (B, L, E)
    z: Tensor  # (B, L, E)
    forward: DirectionParams
    backward: DirectionParams

    def named(self) -> dict[str, Tensor]:
        directions = {"forward": self.forward, "backward": self.backward}
        params = {f"{side}.{name}": value for side, p in directions.items() for name, value in p._asdict().items()}
        return {"x": self.x, "z": self.z, **params}

    def map(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        x, z, *params = (change(tensor).detach().requires_grad_() for tensor in self.named().values())
        half = len(DirectionParams._fields)
        return Inputs(x, z, DirectionParams(*params[:half]), DirectionParams(*params[half:]))


class Errors(NamedTuple):
    """The largest error of y and all gradients, in units of that tensor's largest true value, and whose it is."""

    largest: float
    tensor: str


class Trial:
    """Draws inputs for ``device`` and ``dtype`` once, works out the truth, and compares backends with it.

    x and z are in ``dtype`` and the parameters in float32, under autocast where they differ, as in
    training. The truth is `discli.scan.reference` in float64 on the CPU, fed the very same numbers.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, length: int) -> None:
        self.device, self.dtype, self.tolerance = device, dtype, TOLERANCE[dtype]
        self.inputs = self._ours(draw(2, length))
        with _one_thread():
            self._truth = _values_and_gradients(
                reference.bidirectional_scan, self.inputs.map(lambda t: t.cpu().double())
            )

    def errors(self, scan: Scan) -> Errors:
        """Of y and the gradients of all 16 inputs; infinite for what is not finite or of another shape."""
        with _full_precision(), self._autocast():
            found = _values_and_gradients(scan, self.inputs)
        return max(Errors(_error(found[name], want), name) for name, want in self._truth.items())

    def seconds(self, scan: Scan, batch: int, length: int) -> float:
        """Median time of one call forward and backward, after one to warm up."""
        inputs = self._ours(draw(batch, length))
        dy = torch.randn_like(inputs.x)
        times: list[float] = []
        with self._autocast():
            _gradients(scan, inputs, dy)
            while len(times) < _MANY and sum(times) < (_TOO_LONG if len(times) < _FEW else _SECONDS):
                times.append(_time(lambda: _gradients(scan, inputs, dy), self.device))
        return statistics.median(times)

    def _ours(self, drawn: Inputs) -> Inputs:
        x, z = drawn.x.to(self.dtype), drawn.z.to(self.dtype)
        return drawn._replace(x=x, z=z).map(lambda tensor: tensor.to(self.device))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def draw(batch: int, length: int) -> Inputs:
    """Normal x and z, and parameters distributed as Mamba initialises them (arXiv:2312.00752, section 3.6)."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int, fan_in: int) -> Tensor:
        return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in)

    def direction() -> DirectionParams:
        delta = torch.exp(math.log(1e-3) + torch.rand(WIDTH, generator=generator) * math.log(100))
        return DirectionParams(
            conv_weight=uniform(WIDTH, KERNEL, fan_in=KERNEL),
            conv_bias=uniform(WIDTH, fan_in=KERNEL),
            x_proj=uniform(RANK + 2 * STATE, WIDTH, fan_in=WIDTH),
            dt_weight=uniform(WIDTH, RANK, fan_in=RANK),
            dt_bias=delta + torch.log(-torch.expm1(-delta)),  # softplus of it is delta
            A_log=torch.arange(1.0, STATE + 1).log().expand(WIDTH, STATE).clone(),
            D=torch.ones(WIDTH),
        )

    x, z = (torch.randn(batch, length, WIDTH, generator=generator) for _ in "xz")
    return Inputs(x, z, direction(), direction()).map(lambda t: t)


def _values_and_gradients(scan: Scan, inputs: Inputs) -> dict[str, Tensor]:
    y = scan(*inputs)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    named = inputs.named()
    gradients = torch.autograd.grad(y, list(named.values()), dy)
    return {"y": y.detach(), **{f"gradient of {name}": g for name, g in zip(named, gradients, strict=True)}}


def _gradients(scan: Scan, inputs: Inputs, dy: Tensor) -> None:
    torch.autograd.grad(scan(*inputs), list(inputs.named().values()), dy)


def _error(found: Tensor, want: Tensor) -> float:
    if found.shape != want.shape:
        return math.inf
    error = ((found.cpu().double() - want).abs().max() / want.abs().max()).item()
    return error if math.isfinite(error) else math.inf


def _time(run: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small operations on several threads mostly wait for each other, the more so on a busy machine."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Without TF32, which PyTorch allows convolutions on its own."""
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    allowed = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, allowed, strict=True):
            backend.allow_tf32 = value
