"""Memory that a step frees and the next one asks for again: kept, on Linux with GNU's C library."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_NEVER, _LARGEST = 2**31 - 1, 32 << 20  # bytes; mallopt takes no more of either


def keep_freed_memory() -> None:
    """From now on this process stays as large as it has been: what it frees it does not hand back.

    A training step on a CPU frees hundreds of MiB and asks for as much again. Handed back in between, every page
    costs a fault and is filled with zeros. PyTorch is also told to take large pages, if it is not imported yet.
    What the environment says about either stays. On other systems nothing happens.
    """
    if sys.platform != "linux":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        # Once one is set, malloc no longer adapts the other, which by itself would grow as large.
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
