"""One of several processes that share work and never talk: who am I, and which part is mine."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from discli.runtime.errors import DiscliError

_TRIES, _SECONDS_BETWEEN_TRIES = 5, 0.05


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun, accelerate or srun say; (0, 1) alone."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and world in os.environ:
            return int(os.environ[rank]), int(os.environ[world])
    return 0, 1


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


def check_overwrite(overwrite: bool, world: int) -> None:
    """Several processes cannot tell another's new images from the old ones."""
    if overwrite and world > 1:
        raise DiscliError(f"--overwrite with {world} processes.", "Remove the folder first, or give another --out.")
