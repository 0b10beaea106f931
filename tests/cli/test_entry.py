"""Whatever a command raises becomes a line of what, a line of what to do, and a status."""

import errno

import pytest
import torch

from discli.cli.entry import as_discli_error
from discli.runtime.errors import DiscliError


@pytest.mark.parametrize(
    ("error", "status", "what"),
    [
        (DiscliError("a.", "b.", status=75), 75, "a."),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device."),
        (OSError(errno.ENOSPC, "No space left on device", "a.h5"), 1, "a.h5: No space left on device."),
        (OSError(errno.EACCES, "Permission denied", "/x"), 2, "/x: Permission denied."),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/xx"), 2, "/xx: File name too long."),
        (OSError(errno.EIO, "Input/output error", "/x"), 1, "/x: Input/output error."),
        (OSError(errno.EACCES, "Permission denied"), 1, "Internal error: PermissionError"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "Out of memory: CUDA out of memory."),
        (MemoryError("Unable to allocate 9. TiB"), 1, "Out of memory: Unable"),
        (RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "Out of memory: [x]"),
        (ZeroDivisionError("division\nby zero"), 1, "Internal error: ZeroDivisionError: division by zero"),
    ],
)
def test_every_exception_has_two_lines_and_a_status(error, status, what):
    known = as_discli_error(error)
    assert (known.status, known.message.startswith(what)) == (status, True)
    assert known.hint
