"""Several processes do one piece of work together: each sees its share, the first one has the last word."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch.distributed as dist

from discli.runtime.console import restore_quiet, stderr
from discli.runtime.processes import rank_and_world, share
from discli.runtime.rendezvous import meet

Result = TypeVar("Result")

# The first process may hash a data file of hundreds of gigabytes while the others wait.
_TIMEOUT = timedelta(days=1)


class Mergeable(Protocol):
    """Something that has seen a part of a stream, and takes in what saw the part after it."""

    def merge(self, other: Any, /) -> None: ...


class ProcessGroup:
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

    def merge(self, parts: Sequence[Mergeable]) -> None:
        """Bring everything together in the first process, one other at a time; the others keep their part."""
        if not self.is_main:
            dist.send_object_list(list(parts), dst=0)
            return
        for source in range(1, self.count):
            theirs: list[Any] = [None] * len(parts)
            dist.recv_object_list(theirs, src=source)
            for mine, other in zip(parts, theirs, strict=True):
                mine.merge(other)


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Reads what a launcher set. Only the first process speaks."""
    _, count = rank_and_world()
    if count == 1:
        yield ProcessGroup()
        return
    meet("gloo", _TIMEOUT)
    with restore_quiet():
        stderr.quiet = dist.get_rank() != 0
        try:
            yield ProcessGroup(dist.get_rank(), count)
        finally:
            dist.destroy_process_group()
