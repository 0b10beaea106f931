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


def memory_needed(num_parameters: int, num_averages: int, num_trained: int) -> int:
    """Bytes of weights and averages, and of what is trained gradients and AdamW's two moments; no activations."""
    return _FLOAT32 * (num_parameters * (1 + num_averages) + 3 * num_trained)


def disk_needed(spec: TrainSpec, num_parameters: int, num_averages: int, num_trained: int) -> tuple[int, int]:
    """Bytes of one checkpoint, and of all that a finished run keeps plus the one being written."""
    checkpoint = _FLOAT32 * (num_parameters * (1 + num_averages) + 2 * num_trained)
    kept = spec.keep_last + 1 + (spec.steps // spec.keep_every if spec.keep_every else 0)
    snapshots = spec.steps // spec.ema.snapshot_every * len(spec.ema.stds) if spec.ema.name == "power" else 0
    return checkpoint, kept * checkpoint + snapshots * _FLOAT16 * num_parameters


def describe_needs(
    spec: TrainSpec, num_parameters: int, num_averages: int, num_trained: int, shards: int, folder: Path
) -> Text:
    """One line on memory and disk; ``shards`` processes divide the memory among them."""
    memory = memory_needed(num_parameters, num_averages, num_trained) / shards
    checkpoint, disk = disk_needed(spec, num_parameters, num_averages, num_trained)
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    each = " a process" if shards > 1 else ""
    line = (
        f"Memory without activations: {format_bytes(memory)}{each}. Disk: {format_bytes(checkpoint)} a checkpoint, "
        f"{format_bytes(disk)} in all, {format_bytes(free)} free in {folder}/"
    )
    return Text(line) if disk < free else Text(f"{line}: not enough for the whole run.", "yellow")
