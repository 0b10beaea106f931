"""A command in several processes of this machine, each with its share of the cores."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO

from discli.runtime.errors import INTERNAL, DiscliError, last_error

_PR_SET_PDEATHSIG = 1
_SECONDS_TO_FAIL, _SECONDS_TO_END = 2, 30
# With this process's places to import from: -m would put the current folder, and any queue.py in it, before them.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from discli.cli import main; main()"


@dataclass
class _Team:
    """The processes beside this one, while it is the first of several, and what each says on stderr."""

    others: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = field(default_factory=list)
    threads: int | None = None  # that all have together, the last time; None: it has never been one of several


_team = _Team()


@contextmanager
def beside_others(arguments: Sequence[str], count: int) -> Iterator[None]:
    """While open, this is the first of ``count`` processes; the others run ``discli`` with ``arguments``.

    They find one another as torchrun's do, share this one's threads, say nothing, and end with it.
    Raises DiscliError where one of them ends and takes this one's work with it.
    """
    if count == 1:
        yield
        return
    import torch

    before, together = dict(os.environ), torch.get_num_threads()
    threads = max(1, together // count)
    team = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(threads),  # of the first, too: without, Accelerate has an opinion of its own
    }
    _team.threads = together
    with ExitStack() as stack:
        try:
            for rank in range(1, count):
                said = stack.enter_context(TemporaryFile())
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM.format(path=sys.path), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=before | team | own,
                    start_new_session=True,  # Ctrl-C reaches the terminal's whole group; this one passes it on
                    preexec_fn=end_with_parent if sys.platform == "linux" else None,
                )
                _team.others.append((process, said))
            os.environ.update(team | {"RANK": "0", "LOCAL_RANK": "0"})
            torch.set_num_threads(threads)
            yield
            for process, _ in _team.others:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS_TO_END)
        except Exception as error:
            # Of a lost process the others hear no more than that a connection has closed.
            if not isinstance(error, DiscliError) and (why := lost(_SECONDS_TO_FAIL)) is not None:
                raise why from error
            raise
        finally:
            for name in (*team, "RANK", "LOCAL_RANK"):
                os.environ.pop(name, None)
                os.environ.update({name: before[name]} if name in before else {})
            torch.set_num_threads(together)
            for process, _ in _team.others:
                process.kill()
                process.wait()
            _team.others.clear()
            if torch.distributed.is_initialized():  # after an error
                torch.distributed.destroy_process_group()


@contextmanager
def all_threads() -> Iterator[None]:
    """For what the first process does while those beside it wait: it has the threads of all."""
    if not _team.others or _team.threads is None:
        yield
        return
    import torch

    own = torch.get_num_threads()
    torch.set_num_threads(_team.threads)
    try:
        yield
    finally:
        torch.set_num_threads(own)


def end_with_parent() -> None:
    """In a new process, before its program: killed with SIGKILL, its parent cannot end it; the kernel does."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def lost(seconds: float = 0) -> DiscliError | None:
    """What one of the processes beside this one died of, if one has, or does within so long."""
    ended: list[tuple[int, int, str]] = []
    for rank, (process, said) in enumerate(_team.others, start=2):
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        if process.returncode:
            said.seek(0)
            ended.append((rank, process.returncode, last_error(said.read().decode(errors="replace"))[0]))
    if not ended:
        return None
    # Those that only lost a connection say so as an internal error: another was first.
    rank, status, what = min(ended, key=lambda one: (one[1] > 0, one[2].startswith(INTERNAL)))
    how = f"status {status}" if status > 0 else f"{signal.Signals(-status).name} (too little memory?)"
    return DiscliError(
        f"Process {rank} of {len(_team.others) + 1} ended with {how}{f': {what}' if what else '.'}",
        "Run the same command to resume; with --processes 1 one process has all the cores and less memory.",
        status=1,
    )


def has_been_one_of_several() -> bool:
    """Whether this process has had others beside it, or was started as one of them."""
    return _team.threads is not None or "RANK" in os.environ


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
