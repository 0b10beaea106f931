"""Checkpoints on disk: a folder each, complete or not there at all.

    runs/NAME/checkpoints/00005000/
        model.safetensors, ema.safetensors, optimizer.safetensors, ...
        state.json          the step, the log window, and size and sha256 of every file and of itself

Nothing is pickled. A checkpoint is written under a temporary name, fsynced and renamed.
"""

import errno
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from discli.recipe import DataContract, Recipe, parse_recipe
from discli.runs.layout import STATE, RunFolder
from discli.runs.verify import FORMAT, sha256_of_state, verify_checkpoint
from discli.runtime.console import format_bytes, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.files import is_leftover, parse_json, read_json, sha256_of, sync, write_beside
from discli.runtime.signals import hold_ctrl_c

_TEMPORARY = ".writing-"


def write_checkpoint(
    run: Path,
    step: int,
    files: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> Path:
    """Write ``files`` (stem -> tensors) and ``state`` as the checkpoint of ``step``; returns its folder.

    ``metadata`` goes into every safetensors header. Raises DiscliError when the disk is full; the
    older checkpoints stay.
    """
    parent = RunFolder(run).checkpoints
    parent.mkdir(parents=True, exist_ok=True)
    final = RunFolder(run).checkpoint(step)
    temporary = parent / f"{_TEMPORARY}{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    needed = sum(t.numel() * t.element_size() for tensors in files.values() for t in tensors.values())
    with _room_for(final, needed):
        try:
            temporary.mkdir()
            listing = {}
            for name, tensors in files.items():
                path = temporary / f"{name}.safetensors"
                save_file({k: t.contiguous() for k, t in tensors.items()}, path, metadata=dict(metadata))
                listing[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
                sync(path)
            content = {"format": FORMAT, "step": step, "files": listing, **state}
            content["sha256"] = sha256_of_state(content)
            (temporary / STATE).write_text(json.dumps(content, indent=1), encoding="utf-8")
            sync(temporary / STATE)
            sync(temporary)
            if final.exists():  # a corrupt one, or the same step after a roll-back
                shutil.rmtree(final)
            temporary.rename(final)
            sync(parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return final


def write_snapshot(
    run: Path,
    step: int,
    averages: Mapping[str, Mapping[str, Tensor]],
    stds: Sequence[float],
    metadata: Mapping[str, str],
) -> None:
    """``runs/NAME/snapshots/<step>-<std>.safetensors``, float16: averages that others are rebuilt from."""
    RunFolder(run).snapshots.mkdir(exist_ok=True)
    for std, weights in zip(stds, averages.values(), strict=True):
        path = RunFolder(run).snapshot(step, std)
        half = {name: tensor.half().contiguous() for name, tensor in weights.items()}
        needed = sum(tensor.nbytes for tensor in half.values())
        with _room_for(path, needed):
            write_beside(path, partial(save_file, half, metadata=dict(metadata)))


def newest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None. Corrupt ones are named on stderr and passed over."""
    for folder in reversed(RunFolder(run).find_checkpoints()):
        fault = verify_checkpoint(folder)
        if fault is None:
            return folder
        stderr.print(f"{folder} is corrupt ({fault}); trying the one before it.", style="yellow")
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a whole checkpoint: ``step`` and what else was given to `write_checkpoint`."""
    state: dict[str, Any] = read_json(folder / STATE)
    return state


@hold_ctrl_c()
def read_tensors(folder: Path, name: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors", device=str(device))


@hold_ctrl_c()
def read_metadata(path: Path) -> dict[str, str]:
    """The header of one safetensors file: the recipe and the data contract, as JSON strings."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DiscliError(f"{path} cannot be read as safetensors: {error}.", "Use another checkpoint.") from None


def prune(run: Path, newest: int, keep_last: int, keep_every: int | None) -> None:
    """Delete all but the last ``keep_last`` checkpoints and those at multiples of ``keep_every``, and what kills left.

    What claims to be later than ``newest``, the one just written, is a corrupt one that was passed
    over: it must not push out a good one.
    """
    files = RunFolder(run)
    for leftover in files.checkpoints.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in filter(is_leftover, (*files.snapshots.glob("*"), *files.previews.glob("*"))):
        leftover.unlink(missing_ok=True)
    folders = {int(folder.name): folder for folder in files.find_checkpoints()}
    done = sorted(step for step in folders if step <= newest)
    kept = {*done[-keep_last:], *(step for step in done if keep_every and step % keep_every == 0)}
    for step in folders.keys() - kept:
        shutil.rmtree(folders[step], ignore_errors=True)


@contextmanager
def _room_for(path: Path, needed: int) -> Iterator[None]:
    """Turns a disk that is full, before or while ``path`` is written, into a message with the bytes ``needed``."""
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise _no_room(path, needed, free)
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "os error" in str(error):
            raise _no_room(path, needed, shutil.disk_usage(path.parent).free) from None
        raise


def _no_room(path: Path, needed: int, free: int) -> DiscliError:
    # What had been written is gone by now; a quota, and what files take beside their content, do not show.
    there = f"{format_bytes(free)} are free" if free < needed else "the disk, or a quota, was full before"
    return DiscliError(
        f"No room for {path}: it needs {format_bytes(needed)}, {there}.",
        "Older checkpoints are untouched. Free some space and run the same command again.",
        status=1,
    )


def read_description(file: Path) -> tuple[Recipe, DataContract, int, dict[str, str]]:
    """What a file of weights says of itself: recipe, contract, step, and all of its metadata."""
    metadata = read_metadata(file)
    try:
        recipe = parse_recipe(parse_json(metadata["recipe"]), str(file))
        contract = DataContract.model_validate(parse_json(metadata["contract"]))
        step = int(file.parent.name if file.parent.name.isdecimal() else metadata.get("step", 0))
    except (KeyError, ValueError):
        raise DiscliError(f"{file} was not written by discli.", "Use a checkpoint of discli train or export.") from None
    return recipe, contract, step, metadata
