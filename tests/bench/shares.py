"""``python -m tests.bench.shares [--small]``: where a training step of DiS goes on a CPU.

The step is the trainer's: random numbers, loss, forward, backward, clipping, AdamW, average. Operations are
PyTorch's profiler's, by their own time; *products alone* is the step's matrix products and convolutions at the
best speed that a large product reaches here, in the same precision and with as many threads. Data and logs are
not in it: ``speed.jsonl`` of a run says how long training waited for data.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from discli.diffusion import DiffusionLoss
from discli.model import DiS
from discli.recipe.load import load_recipe
from discli.runtime.rng import RngStream, normal, uniform
from discli.training.ema import build_ema
from discli.training.optimizers import build_optimizer
from tests.bench.scan import environment

_SMALL = ["model.embed_dim=128", "model.depth=7", "model.patch_size=4", 'data.codec="rgb"', "data.resolution=32"]
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mkldnn_convolution")
_PRODUCTS_BACKWARD = ("aten::convolution_backward",)
# Parts of a step by what the profiler's names begin with.
_PARTS = {
    "products": (*_PRODUCTS, *_PRODUCTS_BACKWARD),
    "scan": ("discli::cpu_scan", "GeneratedBackwardFor_discli_cpu_scan"),
    "residual and norm": ("discli::add_and_norm", "GeneratedBackwardFor_discli_add_and_norm"),
    "optimizer": ("aten::_fused_adamw_",),
}


def best_flops(dtype: torch.dtype) -> float:
    """FLOP/s of a large product."""
    a, b = torch.ones(2048, 1024, dtype=dtype), torch.ones(1024, 2048, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * 2048 * 1024 * 2048 / best


def quickest(action: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        found.append(time.perf_counter() - started)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.shares", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="7 blocks of width 128, 64 tokens, 64 images a step")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = load_recipe("dis-s-2", [*(_SMALL if args.small else []), "train.batch_size=1"])
    batch = 64 if args.small else 4
    network, spec = DiS.from_recipe(recipe), recipe.train
    optimizer, ema, loss = build_optimizer(network, spec), build_ema(spec.ema, network), DiffusionLoss(recipe.diffusion)
    shape, slots = recipe.input_shape, torch.arange(batch)
    x0 = normal(0, RngStream.LATENT, 0, slots, shape)

    def draw() -> tuple[torch.Tensor, ...]:
        t = loss.timesteps(uniform(0, RngStream.TIMESTEP, 0, slots))
        noise = normal(0, RngStream.NOISE, 0, slots, shape)
        return t, noise, *loss.noisy(x0, t, noise)

    def passes() -> None:
        t, noise, x_t, t_model = draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            out = network(x_t, t_model, slots).float()
        loss(out, x0, x_t, t, noise).loss.mean().backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), spec.grad_clip)
        optimizer.step()
        ema.update(network, 1)
        optimizer.zero_grad(set_to_none=True)

    def step() -> None:
        passes()
        update()

    step()
    with FlopCounterMode(display=False) as flops:
        step()
    whole = quickest(step, args.rounds)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(args.rounds):
            step()
    spent: Counter[str] = Counter()
    for event in profiled.key_averages():
        part = next((part for part, names in _PARTS.items() if event.key.startswith(names)), event.key)
        spent[part] += event.self_cpu_time_total / 1e6
    total = sum(spent.values())
    floor = flops.get_total_flops() / best_flops(torch.bfloat16 if args.bf16 else torch.float32)

    print(", ".join(f"{key} {value}" for key, value in environment(torch.device("cpu")).items()))
    print(f"\nA step of {batch}: {1e3 * whole:.1f} ms, {batch / whole:.1f} images/s.")
    print(f"Products alone, at their best: {1e3 * floor:.1f} ms; {floor / whole:.2f} of the step's speed.\n")
    print(f"{'part':<42}{'ms':>9}{'share':>8}{'at best, ms':>13}")
    parts = [*_PARTS, *(name for name, _ in spent.most_common() if name not in _PARTS)]
    for part in parts[: len(_PARTS) + 8]:
        best = f"{1e3 * floor:>13.1f}" if part == "products" else ""
        print(f"{part[:40]:<42}{1e3 * whole * spent[part] / total:>9.1f}{spent[part] / total:>8.1%}{best}")
    rest = sum(spent[part] for part in parts[len(_PARTS) + 8 :])
    print(f"{'all else':<42}{1e3 * whole * rest / total:>9.1f}{rest / total:>8.1%}")
    print("\nOf these, by themselves, ms:")
    print(f"{'random numbers':<42}{1e3 * quickest(draw, args.rounds):>9.1f}")
    passes()  # clipping a second time leaves the gradients, and takes as long
    kept = [parameter.grad for parameter in network.parameters()]
    updates = []
    for _ in range(args.rounds):
        for parameter, gradient in zip(network.parameters(), kept, strict=True):
            parameter.grad = gradient
        updates.append(quickest(update, 1))
    print(f"{'clipping, AdamW and average':<42}{1e3 * min(updates):>9.1f}")


if __name__ == "__main__":
    main()
