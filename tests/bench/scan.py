"""``python -m tests.bench.scan [--json]``: every backend of the scan that runs here, turn about in one run.

Times one `bidirectional_scan` (convolutions, projections, both recurrences and the gate) forward without
gradients, and forward with backward. Beside the backends stand three loops under autograd:

    unbind           our reference: each step makes its own decays
    ref-unbind       mamba-ssm's ``selective_scan_ref``, decays and inputs of all steps made beforehand, but
                     with ``unbind`` for its ``[:, :, t]``, so that the backward pass is linear in L
    indexing         ``selective_scan_ref`` as it is, quadratic in L

With ``--alone`` the loops get their recurrences' inputs ready-made and leave out convolutions, projections
and gate, while the backends still do everything: ratios then are at least what the scan alone would show.
Memory is the peak of what PyTorch allocates beyond the inputs, in float32 tensors of (B, L, E); the error
is the largest of y and all 16 gradients against float64, at E = 64, relative to the largest true value.

``--against TREE`` compares instead with the discli of another folder, a checkout of an older commit, say: a
process for each, turn about, on one thread. It prints the least CPU time of each, at the shapes of
``--shapes`` (batch, tokens, width of the scan), with x and z the halves of one tensor as in a network.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discli.runtime.errors import DiscliError
from discli.scan import DirectionParams, choose_backend, mamba_ssm, reference
from discli.scan.cpu import backend as cpu
from discli.scan.cpu import torch_loop
from discli.scan.triton import backend as triton
from tests.scan.cases import Scan, ScanInputs, errors_against_reference, random_inputs

INDEXING = "indexing"
_PROBE = 64  # tokens of the sample that tells how long the indexing loop will take

# What ``--against`` runs in each tree, with nothing of this one: a line in asks for a round, a line out answers.
_CONTENDER = """
import math, sys, time
import torch
from discli import scan
from discli.scan import DirectionParams
def halved(xz, *directions):
    return scan.bidirectional_scan(*xz.chunk(2, -1), *directions)
bidirectional = getattr(scan, "bidirectional_scan_of_halves", halved)  # as the mixer calls it
torch.set_num_threads(1)
torch.manual_seed(0)
B, L, E, N = map(int, sys.argv[1:5])
R = math.ceil(E / 32)
def direction():
    n = torch.randn
    A_log = torch.arange(1.0, N + 1).log().expand(E, N).clone()
    tensors = n(E, 4) / 2, n(E) / 10, n(R + 2 * N, E) / E**0.5, n(E, R) / R**0.5, n(E) - 4, A_log, torch.ones(E)
    return DirectionParams(*(tensor.requires_grad_() for tensor in tensors))
xz = torch.randn(B, L, 2 * E).to(getattr(torch, sys.argv[5])).requires_grad_()
directions, dy = (direction(), direction()), torch.randn(B, L, E).to(xz)
def turn():
    start = time.thread_time()
    y = bidirectional(xz, *directions)
    half = time.thread_time()
    torch.autograd.grad(y, [xz, *directions[0], *directions[1]], dy)
    return half - start, time.thread_time() - half
turn()
for _ in sys.stdin:
    print(*turn(), flush=True)
"""


def _ref_recurrence(steps: Callable[[Tensor], Sequence[Tensor]]) -> reference.Recurrence:
    """`discli.scan.reference.recurrence` as selective_scan_ref computes it, in (B, E, L) layout.

    ``steps`` takes a tensor apart along its third axis.
    """

    def recurrence(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        x_BEL, delta_BEL, B_BNL, C_BNL = (t.transpose(1, 2) for t in (x, delta, B, C))
        decay = torch.exp(torch.einsum("bel,en->beln", delta_BEL, A))
        source = torch.einsum("bel,bnl,bel->beln", delta_BEL, B_BNL, x_BEL)
        h = x.new_zeros(x.shape[0], *A.shape)
        ys = []
        for decay_t, source_t, C_t in zip(steps(decay), steps(source), steps(C_BNL), strict=True):
            h = decay_t * h + source_t
            ys.append(torch.einsum("ben,bn->be", h, C_t))
        return torch.stack(ys, dim=1) + D * x

    return recurrence


LOOPS = {
    "unbind": reference.recurrence,
    "ref-unbind": _ref_recurrence(lambda tensor: tensor.unbind(2)),
    INDEXING: _ref_recurrence(lambda tensor: [tensor[:, :, t] for t in range(tensor.shape[2])]),
}


class Operands(NamedTuple):
    """What the recurrences of both directions work on, made beforehand; leaves that require grad."""

    x: Tensor  # (B, L, E)
    first: tuple[Tensor, ...]  # delta, A, B, C, D
    second: tuple[Tensor, ...]

    @classmethod
    def like(cls, inputs: ScanInputs) -> "Operands":
        def operands(p: DirectionParams) -> tuple[Tensor, ...]:
            B, C = (torch.randn(*inputs.x.shape[:2], p.A_log.shape[1], device=inputs.x.device) for _ in range(2))
            delta = 0.1 * torch.rand_like(inputs.x)
            return tuple(t.detach().requires_grad_() for t in (delta, -p.A_log.exp(), B, C, p.D))

        return cls(inputs.x, operands(inputs.forward), operands(inputs.backward))

    def named(self) -> dict[str, Tensor]:
        return {str(i): t for i, t in enumerate((self.x, *self.first, *self.second))}


def contenders(device: torch.device) -> dict[str, Scan]:
    """What can run on ``device``, by name."""
    scans: dict[str, Scan] = {}
    modules = {"triton": triton, "mamba-ssm": mamba_ssm, "cpu": cpu}
    for name, module in modules.items():
        if module.unavailable(device) is None and not (name == "triton" and device.type == "cpu"):
            scans[name] = module.bidirectional_scan
    if device.type == "cpu":
        scans["torch loop"] = torch_loop.bidirectional_scan
    for name, loop in LOOPS.items():
        scans[name] = lambda x, z, f, b, loop=loop: reference.mix(x, z, f, b, loop)
    return scans


def alone(loop: reference.Recurrence) -> Callable[..., Tensor]:
    """The recurrences of both directions, and no more: a function of `Operands`."""
    return lambda x, first, second: loop(x, *first) + loop(x, *second)


def forward(scan: Callable[..., Tensor], inputs: ScanInputs | Operands) -> None:
    with torch.no_grad():
        scan(*inputs)


def forward_and_backward(scan: Callable[..., Tensor], inputs: ScanInputs | Operands, dy: Tensor) -> None:
    torch.autograd.grad(scan(*inputs), list(inputs.named().values()), dy)


def seconds(run: Callable[[], None], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def peak_bytes(run: Callable[[], None], device: torch.device) -> int:
    """The most that PyTorch's allocator held at once while ``run`` ran, beyond what it held before."""
    if device.type == "cuda":
        _synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        _synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def indexing_seconds(batch: int, length: int, args: argparse.Namespace, device: torch.device) -> float:
    """About how long one pass of the quadratic loop will take, by one of at most 64 tokens and the same channels."""
    short = min(length, _PROBE)
    probe = random_inputs(1, short, args.d_inner, dtype=args.dtype, param_dtype=torch.float32, **shape_of(args, device))
    loop = contenders(device)[INDEXING]
    spent = seconds(lambda: forward_and_backward(loop, probe, torch.ones_like(probe.x)), device)
    return spent * batch * (length / short) ** 2


def shape_of(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    return {"dt_rank": math.ceil(args.d_inner / 32), "d_state": args.d_state, "device": str(device)}


def measure(length: int, args: argparse.Namespace, device: torch.device, skip: set[str]) -> list[dict[str, object]]:
    batch = max(1, args.tokens // length)
    shape = shape_of(args, device)
    inputs = random_inputs(batch, length, args.d_inner, dtype=args.dtype, param_dtype=torch.float32, **shape)
    dy = torch.randn_like(inputs.x)
    runs = {name: (scan, inputs) for name, scan in contenders(device).items() if name not in skip}
    if args.alone:
        runs |= {name: (alone(LOOPS[name]), Operands.like(inputs)) for name in LOOPS if name in runs}

    forwards: dict[str, list[float]] = {name: [] for name in runs}
    boths: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():  # compile, and learn who is too slow to take turns
        if name != INDEXING:
            forward_and_backward(*run, dy)
    for turn in range(args.rounds):
        for name, run in runs.items():
            if name == INDEXING and turn > 0:
                continue
            if name != INDEXING:  # in training the step before was the same, and memory is as it left it
                forward_and_backward(*run, dy)
            forwards[name].append(seconds(lambda run=run: forward(*run), device))
            boths[name].append(seconds(lambda run=run: forward_and_backward(*run, dy), device))

    probe = random_inputs(1, length, 64, dtype=args.dtype, param_dtype=torch.float32, device=str(device))
    rows: list[dict[str, object]] = []
    for name, run in runs.items():
        both = statistics.median(boths[name])
        row: dict[str, object] = {
            "backend": name,
            "shape": f"{batch} x {length} x {args.d_inner}, N {args.d_state}",
            "length": length,
            "forward_ms": 1e3 * statistics.median(forwards[name]),
            "forward_backward_ms": 1e3 * both,
            "rounds": len(boths[name]),
        }
        for peer in (*LOOPS, "mamba-ssm"):
            if peer in boths and peer != name:
                row[f"speed_up_over_{peer}"] = statistics.median(boths[peer]) / both
        if name != INDEXING:
            peak = peak_bytes(lambda run=run: forward_and_backward(*run, dy), device)
            row["peak_tensors"] = peak / (4 * inputs.x.numel())
        if run[1] is inputs and name != INDEXING:
            row["error"] = max(errors_against_reference(run[0], probe).values())
        rows.append(row)
    return rows


def least_seconds(trees: Sequence[Path], shape: Sequence[int], dtype: torch.dtype, rounds: int) -> list[list[float]]:
    """Of each tree, the least CPU time of a forward and of a backward pass of (B, L, E, N) in so many rounds."""
    command = [sys.executable, "-c", _CONTENDER, *map(str, shape), str(dtype).removeprefix("torch.")]
    with ExitStack() as stack:
        running = []
        for tree in trees:
            environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(
                command, cwd=tree, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            running.append(stack.enter_context(process))
        least = [[math.inf, math.inf] for _ in trees]
        for _ in range(rounds):
            for process, best in zip(running, least, strict=True):
                assert process.stdin is not None
                assert process.stdout is not None
                print(file=process.stdin, flush=True)
                answer = process.stdout.readline().split()
                if len(answer) != 2:
                    raise DiscliError("The other tree's scan failed; see above.", "Name a folder that holds discli/.")
                best[:] = (min(*pair) for pair in zip(best, map(float, answer), strict=True))
    return least


def compare(args: argparse.Namespace) -> None:
    here = Path(__file__).parents[2]
    print(", ".join(f"{key} {value}" for key, value in environment(torch.device("cpu")).items()))
    print(f"{'B,L,E':<14} {'':>10} {'there ms':>9} {'here ms':>9} {'times':>6}")
    for text in args.shapes:
        shape = [int(number) for number in text.split(",")]
        there, ours = least_seconds([args.against.resolve(), here], [*shape, args.d_state], args.dtype, args.rounds)
        rows = {"forward": (there[0], ours[0]), "backward": (there[1], ours[1]), "both": (sum(there), sum(ours))}
        for name, (before, now) in rows.items():
            print(f"{text:<14} {name:>10} {1e3 * before:9.2f} {1e3 * now:9.2f} {before / now:6.2f}")


def environment(device: torch.device) -> dict[str, object]:
    versions = {}
    for package in ("torch", "numba", "triton", "mamba-ssm"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    choice = choose_backend("auto", device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "auto": f"{choice.name} ({choice.reason})",
        **versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scan", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--d-inner", type=int, default=768)
    parser.add_argument("--d-state", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=2048, help="batch size times length")
    parser.add_argument("--dtype", type=lambda name: getattr(torch, name), default=torch.float32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=60, help="seconds that the indexing loop may take, as expected")
    parser.add_argument("--alone", action="store_true", help="the loops without what surrounds a recurrence")
    parser.add_argument("--skip", nargs="*", default=[], help="backends to leave out")
    parser.add_argument("--against", type=Path, help="another discli to compare this one with, on the CPU")
    parser.add_argument("--shapes", nargs="+", default=["64,66,256", "4,258,768"], help="B,L,E, for --against")
    args = parser.parse_args()
    if args.against is not None:
        compare(args)
        return
    device = torch.device(args.device)

    rows: list[dict[str, object]] = []
    for length in args.lengths:
        skip = set(args.skip)
        if INDEXING not in skip:
            expected = indexing_seconds(max(1, args.tokens // length), length, args, device)
            if expected > args.limit:
                skip.add(INDEXING)
                rows.append({"backend": INDEXING, "length": length, "skipped": f"it would take about {expected:.0f} s"})
        rows += measure(length, args, device, skip)
    if args.json:
        json.dump({"environment": environment(device), "rows": rows}, sys.stdout, indent=1)
        return
    print(", ".join(f"{key} {value}" for key, value in environment(device).items()))
    peers = [*LOOPS, "mamba-ssm"]
    print(f"{'backend':<11} {'B x L x E':<23} {'fwd ms':>9} {'fwd+bwd ms':>11}", end="")
    print("".join(f" {'x ' + peer:>12}" for peer in peers), f"{'memory':>7} {'error':>8}")
    for row in rows:
        if "skipped" in row:
            print(f"{row['backend']:<11} L {row['length']}: left out, {row['skipped']}")
            continue
        print(
            f"{row['backend']:<11} {row['shape']:<23} {row['forward_ms']:9.2f} {row['forward_backward_ms']:11.2f}",
            end="",
        )
        for peer in peers:
            print(f" {_number(row.get(f'speed_up_over_{peer}'), '.1f'):>12}", end="")
        print(f" {_number(row.get('peak_tensors'), '.2f'):>7} {_number(row.get('error'), '.1e'):>8}")


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, float) else ""


def _cpu_name() -> str:
    try:
        listing = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        return next(line.split(":", 1)[1].strip() for line in listing.splitlines() if line.startswith("Model name"))
    except (OSError, subprocess.CalledProcessError, StopIteration):
        return platform.processor() or platform.machine()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    try:
        main()
    except DiscliError as error:
        raise SystemExit(str(error)) from None
