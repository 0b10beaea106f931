"""Arrays that lie in files, mapped into memory without keeping the files open."""

import ctypes
import math
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def mapped(path: Path, offset: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """``shape`` values from byte ``offset`` of a file on, read-only; they stay readable when the file is removed.

    numpy.memmap keeps a file open for as long as its array lives, and a process may have 1,024 of them, often.
    Raises ValueError where the file is shorter, for reading past its end would kill the process.
    """
    return np.asarray(_Mapping(path, offset, shape, np.dtype(dtype)))


class _Mapping:
    """What a numpy array holds on to."""

    _at: int | None = None

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        lead = offset % mmap.ALLOCATIONGRANULARITY
        end = offset + math.prod(shape) * dtype.itemsize
        self._size = end - offset + lead
        with path.open("rb") as file:
            if (there := os.fstat(file.fileno()).st_size) < end:
                raise ValueError(f"it ends at byte {there:,}, before {end:,}")
            at = _LIBC.mmap(None, self._size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), offset - lead)
        if at == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
        self._at = at
        self.__array_interface__ = {"data": (at + lead, True), "shape": shape, "typestr": dtype.str, "version": 3}

    def __del__(self, unmap: Callable[[int, int], int] = _LIBC.munmap) -> None:
        """``unmap`` is at hand: a module's globals may be gone when the process ends."""
        if self._at is not None:
            unmap(self._at, self._size)
