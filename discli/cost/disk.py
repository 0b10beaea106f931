"""What a run will take, said before its first step."""

import shutil
from pathlib import Path

from rich.text import Text

from discli.recipe.train import Ema, TrainSpec
from discli.runtime.console import format_bytes

_FLOAT32, _FLOAT16 = 4, 2


def averages_kept(ema: Ema) -> int:
    """How many averages of the weights a run keeps up to date."""
    return len(ema.stds) if ema.name == "power" else 1


def memory_needed(num_parameters: int, num_averages: int) -> int:
    """Bytes of weights, gradients, AdamW's two moments and the averages; activations come on top."""
    return _FLOAT32 * num_parameters * (4 + num_averages)


def disk_needed(spec: TrainSpec, num_parameters: int, num_averages: int) -> tuple[int, int]:
    """Bytes of one checkpoint, and of all that a finished run keeps plus the one being written."""
    checkpoint = _FLOAT32 * num_parameters * (3 + num_averages)
    kept = spec.keep_last + 1 + (spec.steps // spec.keep_every if spec.keep_every else 0)
    snapshots = spec.steps // spec.ema.snapshot_every * len(spec.ema.stds) if spec.ema.name == "power" else 0
    return checkpoint, kept * checkpoint + snapshots * _FLOAT16 * num_parameters


def describe_needs(spec: TrainSpec, num_parameters: int, num_averages: int, shards: int, folder: Path) -> Text:
    """One line on memory and disk; ``shards`` processes divide the memory among them."""
    memory = memory_needed(num_parameters, num_averages) / shards
    checkpoint, disk = disk_needed(spec, num_parameters, num_averages)
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    each = " a process" if shards > 1 else ""
    line = (
        f"Memory without activations: {format_bytes(memory)}{each}. Disk: {format_bytes(checkpoint)} a checkpoint, "
        f"{format_bytes(disk)} in all, {format_bytes(free)} free in {folder}/"
    )
    return Text(line) if disk < free else Text(f"{line}: not enough for the whole run.", "yellow")
