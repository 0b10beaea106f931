"""Errors in commands and flags: typer's message, taken apart into what is wrong and how to fix it."""

import re
from typing import Any

from discli.runtime.errors import did_you_mean

_LONGEST = 200  # characters of a complaint: a shell may have made a thousand arguments of one pattern
_NOT_ONE_OF = re.compile(r"'([^']*)' is not one of (.+)")


def is_usage_error(error: BaseException) -> bool:
    """Known by what it offers: older typers raise click's errors, newer ones their own."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def explain_usage(error: Any) -> tuple[str, str]:
    """(what is wrong, how to fix it), a line each."""
    context = getattr(error, "ctx", None)
    see = f"See {context.command_path if context else 'discli'} --help."
    complaint = " ".join(str(error.format_message()).replace("Value error, ", "").split()).rstrip(".")
    choice = _NOT_ONE_OF.search(complaint)
    if context and hasattr(error, "possibilities"):
        flags = [flag for known in context.command.params for flag in (*known.opts, *known.secondary_opts)]
        near = did_you_mean(error.option_name, ["--help", *flags])
        return f"No such option: {error.option_name}.", f"{near} {see}".strip()
    if choice:
        allowed = re.findall(r"'([^']*)'", choice[2])
        what = f"{error.param.opts[-1]} {choice[1]}: not one of {', '.join(allowed)}."
        return what, f"{did_you_mean(choice[1], allowed)} {see}".strip()
    if context and complaint.startswith("Missing") and context.command.epilog:
        return f"{complaint}.", context.command.epilog
    if complaint.startswith("Got unexpected extra argument"):
        see = f"Put what has spaces or a * in quotes. {see}"
    return f"{complaint if len(complaint) <= _LONGEST else complaint[:_LONGEST] + ' ...'}.", see
