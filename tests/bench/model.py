"""``python -m tests.bench.model [--json]``: whole models, a training step and a sampling step, turn about in one run.

DiS stands beside a plain DiT of the same number of parameters, both compiled or both not. A training step
is forward, backward and AdamW; a sampling step is one evaluation of both halves of guidance. ``--block``
times forward and backward of one block of each instead. ``--scans`` adds the same DiS with another scan:

    pass-through   all but the recurrence, in PyTorch operations: what a scan that costs nothing would leave
    unbind, ref-unbind, indexing    the loops of `tests.bench.scan`; the last takes minutes a step
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from discli.model import DiS
from discli.model.block import Block
from discli.model.mixers import mamba
from discli.model.order import token_orders
from discli.recipe.choices import build
from discli.recipe.load import load_recipe
from discli.runtime.errors import DiscliError
from discli.scan import bidirectional_scan, reference
from tests.bench.dit import block_of, block_of_flops, count, dit_of
from tests.bench.scan import LOOPS, environment, seconds

# What DiT's own sizes have (arXiv:2212.09748, table 1): S, B, L and XL.
_DIT_DEPTH = {"dis-s": 12, "dis-b": 12, "dis-m": 24, "dis-l": 24, "dis-h": 28}
_CHANNELS, _CLASSES = 4, 1000


class Contender(NamedTuple):
    name: str
    parameters: int
    actions: dict[str, Callable[[], None]]


def pass_through(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """No recurrence, but each input is needed and each gets a gradient."""
    return D * x + delta * A.sum(1) + (B * C).sum(-1, keepdim=True)


def recurrences(name: str) -> Callable[..., Tensor]:
    loops = {"pass-through": pass_through, **LOOPS}
    if name not in loops:
        return lambda x, z, f, b, _backend="auto": bidirectional_scan(x, z, f, b, name)
    return lambda x, z, f, b, _backend="auto": reference.mix(x, z, f, b, loops[name])


class With:
    """Runs an action with another scan in the mixers."""

    def __init__(self, scan: Callable[..., Tensor], action: Callable[[], None]) -> None:
        self.scan, self.action = scan, action

    def __call__(self) -> None:
        before, mamba.bidirectional_scan = mamba.bidirectional_scan, self.scan
        try:
            self.action()
        finally:
            mamba.bidirectional_scan = before


def model_contenders(preset: str, tokens: int, batch: int, args: argparse.Namespace) -> list[Contender]:
    side = round(tokens**0.5)
    recipe = load_recipe(f"{preset}-2", [f"data.resolution={16 * side}", "train.batch_size=1"])
    device = torch.device(args.device)
    dis = DiS.from_recipe(recipe).to(device)
    dit = dit_of(count(dis), _DIT_DEPTH[preset], 2, 2 * side, _CHANNELS, _CLASSES).to(device)
    x = torch.randn(2 * batch, _CHANNELS, 2 * side, 2 * side, device=device)
    t, y = torch.full((2 * batch,), 500, device=device), torch.arange(2 * batch, device=device) % _CLASSES

    def contender(name: str, model: nn.Module) -> Contender:
        parameters = count(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        call = torch.compile(model, dynamic=False) if args.compile else model

        def train() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                out = call(x[:batch], t[:batch], y[:batch])
            out.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        def sample() -> None:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                call(x, t, y)

        return Contender(name, parameters, {"train": train, "sample": sample})

    ours = contender(preset, dis)
    others = [
        Contender(
            f"{preset}, {scan}", ours.parameters, {k: With(recurrences(scan), v) for k, v in ours.actions.items()}
        )
        for scan in args.scans
    ]
    return [ours, contender("dit", dit), *others]


def block_contenders(preset: str, tokens: int, batch: int, args: argparse.Namespace) -> list[Contender]:
    spec = load_recipe(f"{preset}-2").model
    device = torch.device(args.device)
    inner = build(spec.mixer, spec, token_orders(spec.scan_order, math.isqrt(tokens), block=0, extra_tokens=0))
    with torch.no_grad():
        for parameter in inner.parameters():
            if parameter.dim() == 1 or parameter.shape[-1] <= spec.d_state:
                parameter.fill_(0.1)
    dis = Block(spec.embed_dim, inner, None, None).to(device)
    if args.equal == "flops":
        dit = block_of_flops(sum(inner.flops(tokens).values()), tokens).to(device)
    else:
        dit = block_of(count(dis)).to(device)
    hidden = torch.randn(batch, tokens, spec.embed_dim, device=device, requires_grad=True)
    residual = torch.randn_like(hidden)
    width = dit.out.in_features
    x = torch.randn(batch, tokens, width, device=device, requires_grad=True)
    condition = torch.randn(batch, width, device=device)

    def contender(name: str, block: nn.Module, *inputs: Tensor | None) -> Contender:
        call = torch.compile(block, dynamic=False) if args.compile else block

        def both() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                out = call(*inputs)
            (sum(o.float().sum() for o in out) if isinstance(out, tuple) else out.float().sum()).backward()
            block.zero_grad()

        return Contender(name, count(block), {"forward+backward": both})

    ours = contender(f"{preset} block", dis, hidden, residual, None, None, None)
    others = [
        Contender(
            f"{ours.name}, {scan}", ours.parameters, {k: With(recurrences(scan), v) for k, v in ours.actions.items()}
        )
        for scan in args.scans
    ]
    return [ours, contender("dit block", dit, x, condition), *others]


def measure(preset: str, tokens: int, args: argparse.Namespace) -> list[dict[str, object]]:
    device = torch.device(args.device)
    contenders = (block_contenders if args.block else model_contenders)(preset, tokens, args.batch, args)
    taken: dict[tuple[str, str], list[float]] = {}
    for turn in range(args.rounds + 1):
        for contender in contenders:
            slow = contender.name.endswith("indexing")
            if slow and turn != 1:
                continue
            for action, run in contender.actions.items():
                if action not in args.actions and not args.block:
                    continue
                if not slow:  # in training the step before was the same, and memory is as it left it
                    run()
                spent = seconds(run, device)
                if turn or slow:  # the first turn compiles
                    taken.setdefault((contender.name, action), []).append(spent)
    first = contenders[0].name
    return [
        {
            "model": contender.name,
            "parameters": contender.parameters,
            "tokens": tokens,
            "batch": args.batch,
            "action": action,
            "ms": 1e3 * statistics.median(times),
            "rounds": len(times),
            f"times {first}": statistics.median(times) / statistics.median(taken[first, action]),
        }
        for (name, action), times in taken.items()
        for contender in contenders
        if contender.name == name
    ]


def main() -> None:
    on_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--device", default="cuda" if on_cuda else "cpu")
    parser.add_argument("--models", nargs="+", choices=list(_DIT_DEPTH), help="default: dis-s; on CUDA also b, l, h")
    parser.add_argument("--tokens", type=int, nargs="+", help="default: 256; on CUDA also 1024 and 4096")
    parser.add_argument("--batch", type=int, default=32 if on_cuda else 4)
    parser.add_argument("--rounds", type=int, default=10 if on_cuda else 3)
    parser.add_argument("--scans", nargs="*", default=[], help="pass-through, a loop, or a backend's name")
    parser.add_argument("--actions", nargs="+", default=["train", "sample"], choices=["train", "sample"])
    parser.add_argument("--block", action="store_true", help="one block, forward and backward")
    parser.add_argument("--equal", choices=["parameters", "flops"], default="parameters", help="--block: of the DiT's")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=on_cuda)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=on_cuda)
    args = parser.parse_args()
    models = args.models or (["dis-s", "dis-b", "dis-l", "dis-h"] if on_cuda else ["dis-s"])
    tokens = args.tokens or ([256, 1024, 4096] if on_cuda else [256])
    if args.compile and args.scans:
        parser.error("--scans swaps the scan in a running model: give --no-compile with it")

    rows = [row for preset in models for length in tokens for row in measure(preset, length, args)]
    if args.json:
        json.dump({"environment": environment(torch.device(args.device)), "rows": rows}, sys.stdout, indent=1)
        return
    print(", ".join(f"{key} {value}" for key, value in environment(torch.device(args.device)).items()))
    print(f"{'model':<22} {'parameters':>12} {'tokens':>6} {'batch':>5} {'step':<16} {'ms':>10} {'x first':>8}")
    for row in rows:
        ratio = next(value for key, value in row.items() if key.startswith("times "))
        print(
            f"{row['model']:<22} {row['parameters']:>12,} {row['tokens']:>6} {row['batch']:>5} {row['action']:<16} "
            f"{row['ms']:>10.1f} {ratio:>8.2f}"
        )


if __name__ == "__main__":
    try:
        main()
    except DiscliError as error:
        raise SystemExit(str(error)) from None
