"""A command in several processes of this machine, each with its share of the cores."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO

from discli.runtime.errors import DiscliError

_PR_SET_PDEATHSIG = 1
_SECONDS_TO_FAIL, _SECONDS_TO_END = 2, 30


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

    team = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    before, all_threads = dict(os.environ), torch.get_num_threads()
    threads = max(1, all_threads // count)
    with ExitStack() as stack:
        others = []
        for rank in range(1, count):
            said = stack.enter_context(TemporaryFile())
            environment = before | team | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(threads)}
            process = subprocess.Popen(
                [sys.executable, "-m", "discli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the terminal's whole group; this one passes it on
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )
            others.append((process, said))
        os.environ.update(team | {"RANK": "0", "LOCAL_RANK": "0"})
        torch.set_num_threads(threads)
        try:
            yield
            for process, _ in others:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS_TO_END)
        except Exception as error:
            # Of a lost process the others hear no more than that a connection has closed.
            if not isinstance(error, DiscliError) and (why := _lost(others)) is not None:
                raise why from error
            raise
        finally:
            for name in (*team, "RANK", "LOCAL_RANK"):
                os.environ.pop(name)
                os.environ.update({name: before[name]} if name in before else {})
            torch.set_num_threads(all_threads)
            for process, _ in others:
                process.kill()
                process.wait()


def end_with_parent() -> None:
    """In a new process, before its program: killed with SIGKILL, its parent cannot end it; the kernel does."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _lost(others: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> DiscliError | None:
    """What one of them died of, if one did."""
    for rank, (process, said) in enumerate(others, start=2):
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_FAIL)
        if process.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines()
            ended = f"status {process.returncode}"
            if process.returncode < 0:
                ended = f"{signal.Signals(-process.returncode).name} (too little memory?)"
            last = f": {words[-1].strip()}" if words else "."
            return DiscliError(
                f"Process {rank} of {len(others) + 1} ended with {ended}{last}",
                "Run the same command to resume; with --processes 1 one process has all the cores and less memory.",
                status=1,
            )
    return None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
