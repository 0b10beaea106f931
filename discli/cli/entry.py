"""The ``discli`` command: every mistake is a line of what, a line of how to mend it, and an exit status."""

import errno
import io
import sys
from typing import NoReturn

import typer

# Imported for their commands, which register themselves.
from discli.cli import (  # noqa: F401
    ablate,
    compare,
    data,
    ema,
    eval_fid,
    house,
    info,
    make_ref,
    recipe,
    report,
    runs,
    sampling,
    train,
)
from discli.cli.app import app
from discli.cli.mistakes import explain_usage, is_usage_error
from discli.runtime.errors import DiscliError
from discli.runtime.signals import answer_ctrl_c, ignore_ctrl_c

# Nothing that a command or its files did.
_SYSTEM = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
# Places where nothing can be written, whichever command finds out.
_NO_PLACE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


def main() -> None:
    """The ``discli`` command. `discli.cli.app` documents its exit statuses; no traceback without ``--debug``."""
    debug = "--debug" in sys.argv[1:]
    answer_ctrl_c()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr does: file names need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # Named, so that help and shell completion are the same under python -m discli and torchrun.
        status = app(prog_name="discli", standalone_mode=False)
    except DiscliError as error:
        if debug:
            raise
        _fail(error.message, error.hint, error.status)
    except (typer.Abort, KeyboardInterrupt):
        _fail("Interrupted.", "Run the same command again.", 130)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error)
            sys.exit(2)
        if is_usage_error(error):
            _fail(*explain_usage(error), 2)
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
            _fail(f"{what}.", "What was finished is kept. Free some space and run the same command again.", 1)
        if isinstance(error, OSError) and error.errno in _NO_PLACE and error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}.", "Give another place, or see to its permissions.", 2)
        if isinstance(error, OSError) and error.errno in _SYSTEM and error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}.", "See to the disk or the limits and run it again.", 1)
        _fail(f"Internal error: {type(error).__name__}: {error}", "Run again with discli --debug for the traceback.", 1)
    ignore_ctrl_c()
    sys.exit(status if isinstance(status, int) else 0)


def _fail(what: str, how: str, status: int) -> NoReturn:
    print("discli:", " ".join(what.splitlines()), file=sys.stderr)
    if how:
        print(" ", " ".join(how.splitlines()), file=sys.stderr)
    sys.exit(status)
