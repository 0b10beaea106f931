"""The ``discli`` command: every mistake is one line and an exit status."""

import errno
import sys

import typer

# Imported for their commands, which register themselves.
from discli.cli import data, house, sampling, scoring, training  # noqa: F401
from discli.cli.app import app
from discli.errors import DiscliError


def main() -> None:
    """The ``discli`` command: one line and an exit status for every mistake, no traceback without ``--debug``."""
    debug = "--debug" in sys.argv[1:]
    try:
        status = app(standalone_mode=False)
    except DiscliError as error:
        if debug:
            raise
        _fail(str(error), error.status)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted. Run the same command to go on.", 130)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error)
            sys.exit(2)
        # Click's usage errors, known by what they offer: newer typers carry a click of their own.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            command = getattr(getattr(error, "ctx", None), "command_path", "discli")
            _fail(f"{str(error.format_message()).rstrip('.')}. See {command} --help.", error.exit_code)
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(f"{error}. What was finished is kept. Free some space and run the same command again.", 1)
        _fail(f"internal error: {type(error).__name__}: {error} (run again with --debug for the traceback)", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    print(f"discli: {message}", file=sys.stderr)
    sys.exit(status)
