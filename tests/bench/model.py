"""``python -m tests.bench.model [--json]``: whole models, a training step and a sampling step, turn about in one run.

DiS stands beside a DiT of today (`tests.bench.dit`) of as nearly the same forward FLOPs as widths in steps of 64
allow; what is left of a difference is divided out of its times. Both are compiled, block by block, or both not. A
training step is forward, backward and AdamW; a sampling step is one evaluation of both halves of guidance.
``--block`` times forward and backward of one block of each instead. At the end: the DiT's time in units of DiS's at
each length beside what is asked for, the length at which both take as long, and what 4,096 tokens cost beside 1,024.
``--scans`` adds the same DiS with another scan:

    pass-through   all but the recurrence, in PyTorch operations: what a scan that costs nothing would leave
    unbind, ref-unbind, indexing    the loops of `tests.bench.scan`; the last takes minutes a step
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from discli.model import DiS
from discli.model.compiled import compile_blocks
from discli.model.mixers import mamba
from discli.recipe import Recipe
from discli.recipe.load import load_recipe
from discli.runtime.errors import DiscliError
from discli.scan import bidirectional_scan, reference
from tests.bench.dit import as_dit, block_flops_of, count, flops_of
from tests.bench.scan import LOOPS, environment, seconds

# What DiT's own sizes have (arXiv:2212.09748, table 1: S, B, L and XL), and one more: here depths are odd.
_DIT_DEPTH = {"dis-s": 13, "dis-b": 13, "dis-m": 25, "dis-l": 25, "dis-h": 29}
_CLASSES = 1000
TARGETS = {256: 0.8, 4096: 1.2, 16384: 2.0}  # of a DiT's speed, in training on a GPU
LARGEST_GROWTH = 4.3  # of the cost of an image, from 1,024 tokens to 4,096


class Contender(NamedTuple):
    name: str
    parameters: int
    flops: int  # of one image's forward pass
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


def both_of(preset: str, tokens: int, block: bool) -> dict[str, Recipe]:
    """By name, DiS of so many patches and the DiT beside it; of ``block`` nothing but the first block counts."""
    side = math.isqrt(tokens)
    settings = [f"data.resolution={16 * side}", "train.batch_size=1", *(["model.depth=1"] if block else [])]
    dis = load_recipe(f"{preset}-2", settings)
    dit = as_dit(dis, 1 if block else _DIT_DEPTH[preset], block_flops_of if block else flops_of)
    what = " block" if block else ""
    return {f"{preset}{what}": dis, f"dit{what}": dit}


def precisely(args: argparse.Namespace) -> AbstractContextManager[Any]:
    return torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16)


def flash(args: argparse.Namespace) -> AbstractContextManager[Any]:
    """Where there is flash attention, no other: an error rather than a slower yardstick."""
    on_gpu = torch.device(args.device).type == "cuda" and args.bf16
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION) if on_gpu else nullcontext()


def of_a_model(network: DiS, recipe: Recipe, batch: int, args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    device = torch.device(args.device)
    if args.compile:
        compile_blocks(network, device)
    x = torch.randn(2 * batch, *recipe.input_shape, device=device)
    t, y = torch.full((2 * batch,), 500, device=device), torch.arange(2 * batch, device=device) % _CLASSES
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def train() -> None:
        with flash(args), precisely(args):
            out = network(x[:batch], t[:batch], y[:batch])
        out.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def sample() -> None:
        with flash(args), precisely(args), torch.no_grad():
            network(x, t, y)

    return {"train": train, "sample": sample}


def of_a_block(network: DiS, _: Recipe, batch: int, args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    block = network.blocks[0]
    _, tokens, width = network.pos_embed.shape
    call = torch.compile(block, dynamic=False) if args.compile else block
    hidden = torch.randn(batch, tokens, width, device=args.device, requires_grad=True)
    residual, condition = torch.randn_like(hidden), torch.randn(batch, width, device=args.device)

    def both() -> None:
        with flash(args), precisely(args):
            streams = call(hidden, residual, None, condition, None)
        sum(stream.float().sum() for stream in streams).backward()
        block.zero_grad()

    return {"forward+backward": both}


def batch_of(tokens: int, on_gpu: bool = True) -> int:
    return max(1, min(32, 32_768 // tokens)) if on_gpu else 4


def all_contenders(preset: str, tokens: int, batch: int, args: argparse.Namespace) -> list[Contender]:
    found = []
    for name, recipe in both_of(preset, tokens, args.block).items():
        network = DiS.from_recipe(recipe).to(args.device)
        actions = (of_a_block if args.block else of_a_model)(network, recipe, batch, args)
        of: nn.Module = network.blocks[0] if args.block else network
        found.append(Contender(name, count(of), (block_flops_of if args.block else flops_of)(recipe), actions))
    ours = found[0]
    for scan in args.scans:
        swapped = {action: With(recurrences(scan), run) for action, run in ours.actions.items()}
        found.append(ours._replace(name=f"{ours.name}, {scan}", actions=swapped))
    return found


def measure(preset: str, tokens: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    device = torch.device(args.device)
    batch = args.batch or batch_of(tokens, device.type == "cuda")
    contenders = all_contenders(preset, tokens, batch, args)
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
    first = contenders[0]
    milliseconds = {
        (contender.name, action): 1e3 * statistics.median(times) * first.flops / contender.flops
        for (name, action), times in taken.items()
        for contender in contenders
        if contender.name == name
    }
    return [
        {
            "model": contender.name,
            "parameters": contender.parameters,
            "tokens": tokens,
            "batch": batch,
            "action": action,
            "GFLOPs": contender.flops / 1e9,
            "ms": milliseconds[name, action],
            "rounds": len(times),
            "times the first": milliseconds[name, action] / milliseconds[first.name, action],
        }
        for (name, action), times in taken.items()
        for contender in contenders
        if contender.name == name
    ]


def judged(rows: Sequence[Mapping[str, Any]], preset: str) -> dict[str, float | str]:
    """What is asked of one model in one kind of step, at all lengths, and what was found."""
    ours = {row["tokens"]: row for row in rows if row["model"] in (preset, f"{preset} block")}
    speeds = {row["tokens"]: row["times the first"] for row in rows if row["model"].startswith("dit")}
    speeds = {tokens: speeds[tokens] for tokens in ours}
    found: dict[str, float | str] = {}
    for tokens, speed in speeds.items():
        target = f" (target {TARGETS[tokens]:g})" if tokens in TARGETS else ""
        found[f"{tokens:,} tokens, times the speed of the DiT{target}"] = speed
    found["tokens at which both take as long"] = crossover(speeds)
    if {1024, 4096} <= ours.keys():
        few, many = (ours[tokens]["ms"] / ours[tokens]["batch"] for tokens in (1024, 4096))
        found[f"4,096 tokens cost of 1,024 (target at most {LARGEST_GROWTH:g})"] = many / few
    return found


def crossover(speeds: dict[int, float]) -> str:
    """Where the ratio of speeds becomes 1, between two lengths on a straight line in their logarithms."""
    lengths = sorted(speeds)
    for low, high in pairwise(lengths):
        a, b = math.log(speeds[low]), math.log(speeds[high])
        if a < 0 <= b:
            return f"{low * (high / low) ** (-a / (b - a)):.0f}"
    return f"below {lengths[0]}" if speeds[lengths[0]] >= 1 else f"above {lengths[-1]}"


def main() -> None:
    on_cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--device", default="cuda" if on_cuda else "cpu")
    parser.add_argument("--models", nargs="+", choices=list(_DIT_DEPTH), help="default: dis-s; on CUDA also b, l, h")
    parser.add_argument("--tokens", type=int, nargs="+", help="default: 256; on CUDA also 1024, 4096 and 16384")
    parser.add_argument("--batch", type=int, help="images; default: 4; on CUDA 32, fewer of more than 1,024 tokens")
    parser.add_argument("--rounds", type=int, default=10 if on_cuda else 3)
    parser.add_argument("--scans", nargs="*", default=[], help="pass-through, a loop, or a backend's name")
    parser.add_argument("--actions", nargs="+", default=["train", "sample"], choices=["train", "sample"])
    parser.add_argument("--block", action="store_true", help="one block, forward and backward")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=on_cuda)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=on_cuda)
    args = parser.parse_args()
    models = args.models or (["dis-s", "dis-b", "dis-l", "dis-h"] if on_cuda else ["dis-s"])
    tokens = args.tokens or ([256, 1024, 4096, 16384] if on_cuda else [256])
    if args.compile and args.scans:
        parser.error("--scans swaps the scan in a running model: give --no-compile with it")

    rows = [row for preset in models for length in tokens for row in measure(preset, length, args)]
    if args.json:
        json.dump({"environment": environment(torch.device(args.device)), "rows": rows}, sys.stdout, indent=1)
        return
    print(", ".join(f"{key} {value}" for key, value in environment(torch.device(args.device)).items()))
    print(f"{'model':<22} {'parameters':>12} {'GFLOPs':>8} {'tokens':>6} {'batch':>5} ", end="")
    print(f"{'step':<16} {'ms':>10} {'x first':>8}")
    for row in rows:
        print(
            f"{row['model']:<22} {row['parameters']:>12,} {row['GFLOPs']:>8.2f} {row['tokens']:>6} {row['batch']:>5} "
            f"{row['action']:<16} {row['ms']:>10.1f} {row['times the first']:>8.2f}"
        )
    for preset in models:
        for action in dict.fromkeys(str(row["action"]) for row in rows):
            print(f"\n{preset}, {action}:")
            for asked, number in judged([row for row in rows if row["action"] == action], preset).items():
                print(f"    {asked}: {number if isinstance(number, str) else f'{number:.2f}'}")


if __name__ == "__main__":
    try:
        main()
    except DiscliError as error:
        raise SystemExit(str(error)) from None
