"""Several processes score together: each sees its share of the images, the first one has the last word."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from discli.runtime.console import stderr
from discli.runtime.devices import own_gpu
from discli.runtime.errors import DiscliError
from discli.runtime.processes import rank_and_world, share
from discli.runtime.rendezvous import meet

Result = TypeVar("Result")

# The first process may hash a data file of hundreds of gigabytes while the others wait.
_PATIENCE = timedelta(days=1)


class Mergeable(Protocol):
    """Something that has seen a part of a stream, and takes in what saw the part after it."""

    def merge(self, other: Any, /) -> None: ...


class Processes:
    """Those that torchrun, accelerate or srun started; one alone where nothing did."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, n: int) -> range:
        """This process's part of range(n): contiguous, in the order of ranks."""
        return share(n, self.rank, self.count)

    def once(self, compute: Callable[[], Result]) -> Result:
        """What ``compute`` gives in the first process, on all of them."""
        found: list[Any] = [compute() if self.is_main else None]
        if self.count > 1:
            dist.broadcast_object_list(found, src=0)
        result: Result = found[0]
        return result

    def merge(self, meters: Sequence[Mergeable]) -> None:
        """Bring everything together in the first process, one other at a time; the others keep their part."""
        if not self.is_main:
            dist.send_object_list(list(meters), dst=0)
            return
        for source in range(1, self.count):
            theirs: list[Any] = [None] * len(meters)
            dist.recv_object_list(theirs, src=source)
            for meter, other in zip(meters, theirs, strict=True):
                meter.merge(other)


@contextmanager
def processes() -> Iterator[Processes]:
    """Reads what a launcher set. Only the first process speaks."""
    _, count = rank_and_world()
    if count == 1:
        yield Processes()
        return
    meet("gloo", _PATIENCE)
    stderr.quiet = dist.get_rank() != 0
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        stderr.quiet = False
        dist.destroy_process_group()


def own_device(device: str | None) -> torch.device:
    """The one that was asked for; else this process's GPU, else the CPU. Raises DiscliError where it is not there."""
    if device is not None:
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise DiscliError(f"--device {device}: {why}", "Leave --device out, or give cpu.") from None
    if torch.cuda.is_available():
        return torch.device(own_gpu())
    return torch.device("cpu")
