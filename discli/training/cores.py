"""How many processes share the cores of a machine without a GPU."""

import os
from pathlib import Path

import torch

from discli.data.decoding import usable_cores
from discli.model import empty_network
from discli.recipe import Recipe
from discli.recipe.train import share_of_batch
from discli.runs.layout import RunFolder
from discli.runs.sessions import first_processes
from discli.runs.verify import verify_checkpoint
from discli.runtime.devices import pick_device
from discli.runtime.errors import DiscliError
from discli.runtime.processes import rank_and_world

_MOST, _LEAST_SHARE = 4, 8  # processes; samples of a batch for each
# Parameters. The products of larger networks keep several threads busy, and every process has weights, gradients,
# moments and averages of its own.
_LARGEST = 50_000_000


def processes_for(recipe: Recipe, folder: Path | None, device: str | None, asked: int | None) -> int:
    """As many as were ``asked`` for; else as the run in ``folder``, if any, began; else one a core, at most four.

    One where the network is large, the data is kept in memory, or the batch would leave a process few samples.
    A process of one thread uses its core nearly all the time; threads wait for one another in every small product
    (tests/bench/README.md). Always 1 on a GPU and for what a launcher has started. Raises DiscliError where
    the batch does not divide among those asked for.
    """
    if "RANK" in os.environ or rank_and_world()[1] > 1 or pick_device(device).type != "cpu":
        if asked is not None and asked > 1:
            raise DiscliError(
                f"--processes {asked} shares the cores of a CPU.",
                "Leave it out: on GPUs, and on several machines, torchrun or srun starts the processes.",
            )
        return 1
    if asked is not None:
        share_of_batch(recipe.train, asked)
        return asked
    began = first_processes(folder) if folder else None
    # Bound to a core each (OMP_PROC_BIND), the first threads of all processes would be on the same one.
    threads = min(torch.get_num_threads(), usable_cores())
    if began is not None:
        return began if began <= threads and _suits(recipe, began, least=1) else 1
    if recipe.train.parallel != "ddp" or recipe.data.cache != "none" or _parameters(recipe) > _LARGEST:
        return 1
    return next(count for count in range(min(threads, _MOST), 0, -1) if count == 1 or _suits(recipe, count))


def nothing_to_train(recipe: Recipe, folder: Path) -> bool:
    """Whether the run in ``folder`` is finished, or another process trains it: nobody need be started for that."""
    run = RunFolder(folder)
    finished = [path for path in run.find_checkpoints() if int(path.name) >= recipe.train.steps]
    return run.is_running() or any(verify_checkpoint(path) is None for path in finished)


def _parameters(recipe: Recipe) -> int:
    return sum(p.numel() for p in empty_network(recipe).parameters())


def _suits(recipe: Recipe, count: int, least: int = _LEAST_SHARE) -> bool:
    try:
        return share_of_batch(recipe.train, count) >= least
    except DiscliError:
        return False
