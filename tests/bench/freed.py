"""``python -m tests.bench.freed [--rounds 5]``: a training step in a process that keeps what it frees, as ours do.

The other process leaves that to the C library. Both run in turn, each in a fresh process of one thread: 16 steps of 32
of cifar10-fast without its teacher, forward, backward and Muon. Figures are medians of a step's time, and the faults
of a step; the ratio is of the two processes of a round, and its median over rounds stands last.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

_STEPS, _UNTIMED = 16, 3


def steps(keep: bool) -> tuple[float, float]:
    """Milliseconds and faults of a step, in this process."""
    if keep:
        from discli.runtime.allocator import keep_freed_memory

        keep_freed_memory()
    import torch

    from discli.diffusion import DiffusionLoss
    from discli.model import DiS
    from discli.recipe.load import load_recipe
    from discli.runtime.rng import RngStream, normal, uniform
    from discli.training.optimizers import build_optimizer

    torch.set_num_threads(1)
    recipe = load_recipe("cifar10-fast", ["train.align=none"])
    network, loss = DiS.from_recipe(recipe), DiffusionLoss(recipe.diffusion)
    optimizer = build_optimizer(network, recipe.train)
    slots = torch.arange(recipe.train.batch_size)
    x0, noise = (normal(0, stream, 0, slots, recipe.input_shape) for stream in (RngStream.LATENT, RngStream.NOISE))

    def step() -> None:
        t = loss.timesteps(uniform(0, RngStream.TIMESTEP, 0, slots))
        x_t, t_model = loss.noisy(x0, t, noise)
        loss(network(x_t, t_model, slots % 10), x0, x_t, t, noise).loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = []
    for number in range(_UNTIMED + _STEPS):
        if number == _UNTIMED:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        started = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - started))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return statistics.median(times[_UNTIMED:]), faults / _STEPS


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.freed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=["keep", "hand back"], help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        print(*steps(flags.one == "keep"))
        return
    ours = ("MALLOC_", "GLIBC_", "THP_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)} | {"OMP_NUM_THREADS": "1"}
    ratios = []
    for _ in range(flags.rounds):
        found = {}
        for one in ("hand back", "keep"):
            command = [sys.executable, "-m", "tests.bench.freed", "--one", one]
            said = subprocess.run(command, env=clean, check=True, capture_output=True, text=True).stdout
            found[one], faults = map(float, said.split()[-2:])
            print(f"{one:<12}{found[one]:8.1f} ms{faults:10.0f} faults a step", flush=True)
        ratios.append(found["hand back"] / found["keep"])
    print(f"times as fast: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
