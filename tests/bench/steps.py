"""``python -m tests.bench.steps [TREE]``: steps of DiS beside the same of another checkout, and beside a DiT.

TREE is the folder of an older commit, say. Every round runs each contender in a process of its own, one after
the other, so that all meet the same machine; figures are medians over the rounds of each process' quickest
call. A training step is forward, backward, and AdamW; a sampling step one evaluation of both halves of
guidance. DiS-S/2, 1,024 tokens a step; ``--small`` is what a CPU trains: 7 blocks of width 128, patches of 4
on 32 x 32 pixels, batches of 64. The DiT is one of today (`tests.bench.dit`) of about as many parameters, in the same
precision, and compiled where DiS is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parents[2]
_SMALL = ["model.embed_dim=128", "model.depth=7", "model.patch_size=4", 'data.codec="rgb"', "data.resolution=32"]
_CLASSES = 1000


def work(tokens: int, small: bool, threads: int, bf16: bool, compiled: bool, dit: bool, calls: int) -> dict[str, Any]:
    """In the contender's own process. Imports nothing that an older tree might not have, but what it must."""
    import torch

    from discli.model import DiS
    from discli.recipe.load import load_recipe

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    side = round(tokens**0.5)
    settings = _SMALL if small else [f"data.resolution={16 * side}"]
    recipe = load_recipe("dis-s-2", [*settings, "train.batch_size=1"])
    batch = 64 if small else max(1, 1024 // tokens)
    if dit:
        from tests.bench.dit import as_dit, parameters_of

        recipe = as_dit(recipe, 5 if small else 13, parameters_of)
    call = model = DiS.from_recipe(recipe)
    if compiled:
        for block in list(model.blocks)[1:]:
            block.compile(dynamic=False)
    x = torch.randn(2 * batch, *recipe.input_shape)
    t, y = torch.full((2 * batch,), 500), torch.arange(2 * batch) % _CLASSES
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def train() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = call(x[:batch], t[:batch], y[:batch])
        out.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def sample() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            call(x, t, y)

    found: dict[str, Any] = {"batch": batch, "parameters": sum(p.numel() for p in model.parameters())}
    for name, action in (("train", train), ("sample", sample)):
        started = time.perf_counter()
        action()
        found[f"{name} first"] = time.perf_counter() - started
        action()
        wall, cpu = [], []
        for _ in range(calls):
            started, used = time.perf_counter(), time.process_time()
            action()
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - used)
        found[name], found[f"{name} cpu"] = min(wall), min(cpu)
    return found


def run(tree: Path, **settings: Any) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(settings["threads"])}
    environment.setdefault("GOMP_SPINCOUNT", "1000")
    command = [sys.executable, "-P", __file__, "--worker", json.dumps(settings)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", nargs="?", type=Path, help="another checkout; default: the DiT alone")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tokens", type=int, nargs="+", default=[256])
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1])
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true", help="the blocks of all contenders")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="of the process, where the machine is not quiet")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(**args.worker)))
        return
    contenders = {"here": (_HERE, False), "DiT": (_HERE, True)}
    if args.tree:
        contenders["there"] = (args.tree.resolve(), False)
    suffix = " cpu" if args.cpu_time else ""
    print(f"{'step':<8}{'tokens':>7}{'threads':>8}{'batch':>6}", end="")
    print("".join(f"{name + ', ms':>13}" for name in contenders), f"{'here/DiT':>10}{'there/here':>12}{'images/s':>10}")
    for tokens in [64] if args.small else args.tokens:
        for threads in args.threads:
            rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
            for _ in range(args.rounds):
                for name, (tree, dit) in contenders.items():
                    settings = {"small": args.small, "bf16": args.bf16, "compiled": args.compile, "calls": args.calls}
                    rounds[name].append(run(tree, tokens=tokens, threads=threads, dit=dit, **settings))
            for action in ("train", "sample"):
                taken = {n: statistics.median(found[action + suffix] for found in rounds[n]) for n in contenders}
                batch = rounds["here"][0]["batch"]
                times = "".join(f"{1e3 * seconds:>13.1f}" for seconds in taken.values())
                there = f"{taken['there'] / taken['here']:>12.2f}" if "there" in taken else f"{'':>12}"
                print(
                    f"{action:<8}{tokens:>7}{threads:>8}{batch:>6}{times} {taken['here'] / taken['DiT']:>10.2f}{there}"
                    f"{batch / taken['here']:>10.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
