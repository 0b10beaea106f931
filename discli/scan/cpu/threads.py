"""Runs one compiled function on several threads at once.

PyTorch's OpenMP runtime lends its own threads where it can be reached: they keep spinning for a few
milliseconds after each PyTorch operation, and any other pool would have to fight them for the cores
(two cores, right after a matrix product: 4.4 ms with a pool of our own, 2.3 ms with PyTorch's).
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor

_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Team:
    """The threads of this process. Those of a parent process do not outlive a fork."""

    def __init__(self, forked: bool = False) -> None:
        self.may_use_openmp = not forked
        self.pool: ThreadPoolExecutor | None = None


def _reset() -> None:
    global _team
    _team = _Team(forked=True)


_team = _Team()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)


def _openmp() -> "ctypes._NamedFuncPointer | None":
    """GOMP_parallel of the runtime that PyTorch has loaded: GNU's, or Intel's or LLVM's on Linux."""
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


_gomp_parallel = _openmp()


def run_on_threads(function: int, argument: int, threads: int) -> None:
    """Calls the C function at address ``function``, void (*)(void *), once per thread; waits for all.

    The calls share ``argument`` and divide the work between themselves.
    """
    if threads > 1 and _gomp_parallel is not None and _team.may_use_openmp:
        _gomp_parallel(function, argument, threads, 0)
        return
    call = _CALL(function)
    if threads > 1 and _team.pool is None:
        _team.pool = ThreadPoolExecutor(thread_name_prefix="discli-scan")
    others = [_team.pool.submit(call, argument) for _ in range(threads - 1)] if _team.pool else []
    call(argument)
    for other in others:  # one that has not begun by now would find nothing left to do
        if not other.cancel():
            other.result()
