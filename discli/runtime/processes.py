"""One of several processes that share work and never talk: who am I, and which part is mine."""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from discli.runtime.errors import DiscliError

# How launchers tell a process its number and how many there are. A batch script has Slurm's SLURM_PROCID and
# SLURM_NTASKS too, though nothing runs beside it: only a job step, which srun starts, has SLURM_STEP_NUM_TASKS.
_LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
_OF_A_TEAM = {name for names in _LAUNCHERS for name in names} | {"LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"}
_TRIES, _SECONDS_BETWEEN_TRIES = 5, 0.05


def rank_and_world(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process's number and how many there are, as torchrun, accelerate or srun say; (0, 1) alone.

    Raises DiscliError where what they say is no number, or no process of that many.
    """
    for rank, world in _LAUNCHERS:
        if rank in environment and world in environment:
            said = environment[rank], environment[world]
            if all(text.isdecimal() for text in said) and int(said[0]) < int(said[1]):
                return int(said[0]), int(said[1])
            raise DiscliError(
                f"{rank}={said[0]}, {world}={said[1]}: no process of that many.",
                f"torchrun or srun sets both; unset {rank} to work alone.",
            )
    return 0, 1


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's number among those on this machine."""
    return int(environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", "0")))


def processes_here(environment: Mapping[str, str] = os.environ) -> int:
    """How many of them share this machine, as torchrun and accelerate say."""
    return int(environment.get("LOCAL_WORLD_SIZE", "1"))


def without_others(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for a process that this one starts for itself, and that is alone."""
    return {key: value for key, value in environment.items() if key not in _OF_A_TEAM}


def own_part(rank: int, world: int, missing: str) -> str:
    """What to say where the others' parts are ``missing``, so that a partial set is never silent."""
    return (
        f"This process made its part, {rank + 1} of {world}; the others' are missing: {missing}."
        " Whoever ends last finishes the whole."
    )


def share(count: int, rank: int, world: int) -> range:
    """The ``rank``-th of ``world`` consecutive parts of range(count), as equal as can be."""
    return range(count * rank // world, count * (rank + 1) // world)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While one process is in here, others that share the folder wait at the door."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def try_lock(file: TextIO) -> bool:
    """Whether the lock on ``file`` is ours now. `is_locked` holds it for an instant, so one refusal proves nothing."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(_SECONDS_BETWEEN_TRIES)
    return False


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on ``path`` now. Shared, so that several may look at once."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
