"""``python -m tests.bench.mixers``: training steps of one network with each mixer, thread CPU time of one thread.

7 blocks of width 128, patches of 4 of 32 px images, batches of 64: forward, backward and AdamW, the mixers in
turn, the best of several rounds. ``--layer`` times one mixer of width 128 alone, over 64 and 256 patches.
Speed says nothing of what a mixer learns.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from discli.model import DiS
from discli.recipe import parse_recipe

MIXERS = ("mamba", "mamba2", "mamba3", "hydra", "attention")


def network(mixer: str, depth: int, patches: int, chunk: int | None) -> DiS:
    table: dict[str, Any] = {"name": mixer}
    if chunk and mixer not in ("mamba", "attention"):
        table["chunk"] = chunk
    side = round(patches**0.5)
    tree = {
        "name": "bench",
        "model": {"embed_dim": 128, "depth": depth, "patch_size": 4, "num_classes": 10, "mixer": table},
        "data": {"resolution": 4 * side},
        "train": {"steps": 1},
    }
    torch.manual_seed(0)
    return DiS.from_recipe(parse_recipe(tree, "bench"))


def training_step(mixer: str, chunk: int | None, images: int) -> tuple[Callable[[], None], int]:
    model = network(mixer, 7, 64, chunk)
    x, t, y = torch.randn(images, 3, 32, 32), torch.full((images,), 500), torch.arange(images) % 10
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        model(x, t, y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(parameter.numel() for parameter in model.parameters())


def layer(mixer: str, chunk: int | None, images: int, patches: int) -> Callable[[], None]:
    block = network(mixer, 1, patches, chunk).blocks[0]
    one = block.mixer if hasattr(block, "mixer") else block.token_mixing.mixer
    u = torch.randn(images, patches + 2, 128, requires_grad=True)
    back = torch.randn_like(u)
    return lambda: one(u).backward(back)


def best(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Milliseconds by name."""
    found = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.thread_time()
            call()
            found[name] = min(found[name], 1e3 * (time.thread_time() - started))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.mixers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mixers", nargs="+", default=MIXERS, choices=MIXERS)
    parser.add_argument("--layer", action="store_true")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--chunk", type=int, help="of those that have chunks; default: their own")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.layer:
        for patches in (64, 256):
            found = best({name: layer(name, args.chunk, args.images, patches) for name in args.mixers}, args.rounds)
            for name, ms in found.items():
                print(f"{patches:>4} patches  {name:<10}{ms:>8.1f} ms{ms / found[args.mixers[0]]:>7.2f}", flush=True)
        return
    steps = {name: training_step(name, args.chunk, args.images) for name in args.mixers}
    for name, ms in best({name: step for name, (step, _) in steps.items()}, args.rounds).items():
        print(f"{name:<10}{steps[name][1]:>10,} parameters{ms:>9.1f} ms{1e3 * args.images / ms:>8.1f} images/s")


if __name__ == "__main__":
    main()
