"""``python -m tests.bench.muon [--processes 2]``: the update of `cifar10-fast`, each process for itself and shared.

One thread a process. The two ways take turns, step by step, in the same processes; figures are medians, and the ratio
that of the two. Muon's iterations are shared, AdamW's part and the moments are not; sending is counted.
"""

import argparse
import statistics
import time
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_STEPS = 60


def work(rank: int, world: int, meeting: str) -> None:
    from discli.model import DiS
    from discli.recipe.load import load_recipe
    from discli.training.engine import Engine
    from discli.training.optimizers import build_optimizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{meeting}/here", rank=rank, world_size=world)
    recipe = load_recipe("cifar10-fast")
    network = DiS.from_recipe(recipe)
    optimizer = build_optimizer(network, recipe.train)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    send = Engine.exchange
    taken: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * _STEPS):
        shared = number % 2 == 1
        optimizer.share_work(*((rank, world) if shared else (0, 1)), lambda parts: send(None, parts))  # type: ignore[arg-type]
        dist.barrier()
        started = time.perf_counter()
        optimizer.step()
        dist.barrier()
        taken[shared].append(1e3 * (time.perf_counter() - started))
    if rank == 0:
        alone, shared_ms = (statistics.median(times[5:]) for times in taken.values())
        print(
            f"{world} processes: {alone:.1f} ms alone, {shared_ms:.1f} ms shared, {alone / shared_ms:.2f} times as fast"
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    flags = parser.parse_args()
    with TemporaryDirectory() as folder:
        mp.spawn(work, (flags.processes, folder), flags.processes)
