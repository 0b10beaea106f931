"""Weights of feature networks: where a file of them lies, and how it is read without running any code."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discli.runtime.errors import DiscliError
from discli.runtime.signals import hold_ctrl_c


def named_weights(given: Path | None, variable: str, file_name: str, url: str) -> Path | None:
    """``given`` (``--weights``) or what the environment variable says: a file, or the folder that holds it.

    None where neither is set; DiscliError where one is and nothing is there.
    """
    named = given or (Path(os.environ[variable]) if os.environ.get(variable) else None)
    if named is None or named.is_file():
        return named
    if (named / file_name).is_file():
        return named / file_name
    source = "--weights" if given else f"${variable}"
    raise DiscliError(f"{source} {named}: no such file.", f"Download {url} and give its path.")


def hub_cache(file_name: str) -> Path:
    """Where torch.hub, and so torch-fidelity, keeps a file: $TORCH_HOME/hub/checkpoints."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file_name


@hold_ctrl_c()
def read_state_dict(path: Path, key: str, what: str, url: str) -> tuple[dict[str, Tensor], str]:
    """The tensors, and the sha256 of the file. Only tensors are unpickled, never code.

    Raises DiscliError for what cannot be read, or lacks ``key`` and so is not ``what``.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load's errors run over many lines and types
        raise DiscliError(
            f"{path} cannot be read as weights ({type(error).__name__}).", f"Download {url} again."
        ) from error
    if not isinstance(state, dict) or key not in state:
        raise DiscliError(f"{path} does not hold {what}.", f"Give {url}")
    with path.open("rb") as file:
        return state, hashlib.file_digest(file, "sha256").hexdigest()
