"""Whether a checkpoint is whole: the one definition, by sizes or by hashes. Imports no torch."""

import hashlib
import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from discli.runs.layout import STATE
from discli.runtime.errors import DiscliError
from discli.runtime.files import read_json, sha256_of

FORMAT = 1


def verify_checkpoint(folder: Path, files: Container[str] | None = None, hashes: bool = True) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when it is as it was written.

    ``files``: look at these alone, and at state.json. Without ``hashes`` the files' sizes are compared
    alone, which takes no time. Raises DiscliError for what cannot be read just now (an I/O error, no
    permission, too many open files): that is not corrupt, and training must not resume from before it.
    """
    try:
        state = read_json(folder / STATE)
        if state["format"] != FORMAT:
            return f"format {state['format']}, this discli reads {FORMAT}"
        if "sha256" in state and state["sha256"] != sha256_of_state(state):
            return f"{STATE} does not match its hash"
        if folder.name.isdecimal() and state["step"] != int(folder.name):
            return f"{STATE} is of step {state['step']}"
        for name, expected in state["files"].items():
            if files is not None and name not in files:
                continue
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            size = expected["bytes"]
            if (found := path.stat().st_size) != size:
                return f"{name} has {found:,} bytes instead of {size:,}"
            if hashes and sha256_of(path) != expected["sha256"]:
                return f"{name} does not match its hash"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return f"{STATE} is missing"
    except OSError as error:
        raise DiscliError(
            f"{error.filename or folder} cannot be read: {error.strerror}.",
            "It may well be whole: check the disk and its permissions, then run the same command again.",
            status=1,
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{STATE} is unreadable"
    return None


def sha256_of_state(state: Mapping[str, Any]) -> str:
    """Of all that state.json holds but this hash itself."""
    others = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()
