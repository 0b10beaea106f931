"""How processes that work together find one another, whoever launched them."""

import os
import re
import threading
import time
from collections.abc import Callable, MutableMapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from discli.runtime.console import format_seconds, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.launch import lost
from discli.runtime.processes import local_rank, rank_and_world
from discli.runtime.signals import EXIT_INTERRUPTED

# Started together, they come within a minute or two, even where importing from a network disk takes long.
TIME_TO_COME = timedelta(minutes=10)
_SECONDS_BETWEEN_LOOKS = 0.05
_SECONDS_BEFORE_A_WORD, _SECONDS_BETWEEN_WORDS = 5, 60
# Below those that Linux gives to outgoing connections, and above the well-known ones.
_FIRST_PORT, _PORTS = 10_000, 20_000


def meet(backend: str, patience: timedelta, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
    """Wait for the other processes, if there are any; from then on torch.distributed has a default group.

    ``patience``: how long one of them may keep the others waiting afterwards. Says what it waits for, and
    gives up, with a DiscliError, after ``TIME_TO_COME``, where one that this one has started is lost, or, with
    status 75, once ``asked_to_stop``.
    """
    adopt_slurm(os.environ)
    rank, world = rank_and_world()
    if world == 1 or dist.is_initialized():
        return
    outcome: list[Exception | None] = []

    def join() -> None:
        try:
            store, *_ = next(iter(rendezvous("env://", timeout=TIME_TO_COME)))
            store = PrefixStore("discli", store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    # In a thread, for signals are answered between two lines of Python, and this waits within one.
    threading.Thread(target=join, daemon=True).start()
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    started = time.monotonic()
    next_word = started + _SECONDS_BEFORE_A_WORD
    while not outcome:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        if asked_to_stop():
            raise DiscliError(
                f"Stopped while process {rank + 1} of {world} waited for the others; nothing was begun.",
                "Run the same command again.",
                status=EXIT_INTERRUPTED,
            )
        if (why := lost()) is not None:
            raise why
        if (now := time.monotonic()) > next_word:
            next_word = now + _SECONDS_BETWEEN_WORDS
            waited = format_seconds(now - started)
            stderr.print(f"Process {rank + 1} of {world} has waited {waited} for the others at {where}.")
    if outcome[0] is not None:
        raise _explain(outcome[0], rank, world, where) from None


def adopt_slurm(environment: MutableMapping[str, str]) -> None:
    """Translate srun's variables into torchrun's, unless a launcher has set those already."""
    rank, world = rank_and_world(environment)
    if world == 1 or "RANK" in environment:
        return
    environment["RANK"], environment["WORLD_SIZE"] = str(rank), str(world)
    # Accelerate takes this for the number of a GPU, and srun may show each task none but its own.
    local, gpus = local_rank(environment), torch.cuda.device_count()
    environment["LOCAL_RANK"] = str(local % gpus if gpus else local)
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "localhost"
    environment.setdefault("MASTER_ADDR", _first_host(nodes))
    # Every task of a step computes the same port; two steps of a job, and two jobs on a machine, differ.
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    environment.setdefault("MASTER_PORT", str(_FIRST_PORT + (101 * job + step) % _PORTS))


def _first_host(node_list: str) -> str:
    """``gpu[03-05,9],login`` -> ``gpu03``."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", node_list)
    return match[1] + (match[2] or "") if match else "localhost"


def _explain(error: Exception, rank: int, world: int, where: str) -> DiscliError:
    why = " ".join(str(error).split())
    if "EADDRINUSE" in why or "address already in use" in why.lower():
        return DiscliError(
            f"{where}, where the {world} processes were to meet, is taken by another program.",
            "Set MASTER_PORT, the same for all of them, to a port that is free.",
            status=1,
        )
    if isinstance(error, dist.DistStoreError):
        within = format_seconds(TIME_TO_COME.total_seconds())
        return DiscliError(
            f"Process {rank + 1} of {world} met no others at {where} within {within}.",
            "Start all of them, with torchrun or srun; or unset RANK and WORLD_SIZE to work alone.",
            status=1,
        )
    return DiscliError(
        f"Process {rank + 1} of {world} cannot join the others at {where}: {why[:200]}",
        "torchrun and srun say where to meet; launch with one of them.",
        status=1,
    )
