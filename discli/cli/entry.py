"""The ``discli`` command: every error is two lines, what is wrong and what to do, and an exit status."""

import errno
import io
import os
import sys
from typing import NoReturn

import typer

# Imported for their commands, which register themselves.
from discli.cli import (  # noqa: F401
    ablate,
    compare,
    demo,
    doctor,
    ema,
    encode,
    eval_fid,
    export,
    floor,
    import_,
    info,
    make_ref,
    models,
    quickstart,
    recipe,
    report,
    runs,
    sample,
    sweep,
    teacher,
    train,
)
from discli.cli.app import app
from discli.cli.usage_errors import explain_usage, is_usage_error
from discli.runtime.allocator import keep_freed_memory
from discli.runtime.errors import INTERNAL, DiscliError
from discli.runtime.launch import has_been_one_of_several
from discli.runtime.signals import answer_ctrl_c, ignore_ctrl_c

# What to do about errors of the system, and the status: 1 if nothing that the user gave is to blame.
_FULL = "Free some space and run the same command again; finished work is kept.", 1
_NOT_WRITABLE = "Give another place, or change its permissions.", 2
_SYSTEM = "Check the disk and the limits, and run it again.", 1
_ERRNO = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), _NOT_WRITABLE),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), _NOT_WRITABLE),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM), _SYSTEM),
}
# Whatever is made smaller, a run goes on from its last checkpoint, and samples from those that are there.
_LESS_AT_ONCE = (
    "Less at once: train --set train.micro_batch=N or train.activation_checkpointing=true, sample --model-batch N,"
    " elsewhere --batch-size N."
)


def main() -> None:
    """The ``discli`` command. `discli.cli.app` documents its exit statuses; no traceback without ``--debug``."""
    answer_ctrl_c()
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr does: file names need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # Named, so that help and shell completion are the same under python -m discli and torchrun.
        status = app(prog_name="discli", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error)
            sys.exit(2)
        if "--debug" in sys.argv[1:] and not is_usage_error(error):
            raise
        _fail(as_discli_error(error))
    ignore_ctrl_c()
    _end(status if isinstance(status, int) else 0)


def as_discli_error(error: BaseException) -> DiscliError:
    """What to tell the user about whatever a command raised."""
    if isinstance(error, DiscliError):
        return error
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return DiscliError("Interrupted.", "Run the same command again.", status=130)
    if is_usage_error(error):
        what, how = explain_usage(error)
        return DiscliError(what, how)
    if isinstance(error, OSError) and error.errno in _ERRNO and (error.filename or _ERRNO[error.errno] is _FULL):
        hint, status = _ERRNO[error.errno]
        where = f"{error.filename}: " if error.filename else ""
        return DiscliError(f"{where}{error.strerror}.", hint, status=status)
    if _is_out_of_memory(error):
        return DiscliError(f"Out of memory: {error}", _LESS_AT_ONCE, status=1)
    what = f"{INTERNAL}: {type(error).__name__}: {error}"
    return DiscliError(what, "Run again with discli --debug for the traceback.", status=1)


def _is_out_of_memory(error: BaseException) -> bool:
    """Of a device (by its name, for torch is not imported here), of numpy or Python, or of PyTorch on a CPU."""
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error))


def _fail(error: DiscliError) -> NoReturn:
    print(f"discli: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    _end(error.status)


def _end(status: int) -> NoReturn:
    if (has_been_one_of_several() and "torch" in sys.modules) or "gradio" in sys.modules:
        # One of several processes. A thread of their connection that wakes while Python is being taken apart
        # aborts the process ("terminate called without an active exception"), though all its work is done.
        # Or a server, with a thread that may be in the middle of a long step, which nobody waits for any more.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
