"""Features of the images in a finished data file: what a network makes of each, stored beside the samples.

The file is copied to ``FILE.h5.features.partial``, features are appended there, and the copy takes the file's name
when it is whole. So whatever instant the process dies at, the data file is as it was or has all of the features,
and the same command goes on where it was. Features take more room than samples, which makes the copy cheap.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from discli.data.layout import allocate, open_to_grow, set_finished
from discli.data.opening import grid_shape
from discli.data.resume_log import ResumeLog, State
from discli.data.shards import JoinedRows, Shard
from discli.data.store import Store
from discli.data.writer import partial_of
from discli.recipe.contract import DataContract, FeatureGrid
from discli.runtime.console import format_bytes, progress, stderr
from discli.runtime.errors import DiscliError
from discli.runtime.files import sync
from discli.runtime.plugins import find_plugin
from discli.runtime.signals import hold_ctrl_c

FOLDER, FIRST = "data/teachers", "efficientnet-lite0"
Features = npt.NDArray[np.float16]

_CPU_BATCH, _GPU_BATCH = 8, 256  # on a CPU a few images stay in its cache
_SECONDS_BETWEEN_COMMITS = 1.0


def add_features(path: str | Path, features: str, *, vae: str | None = None, device: str | None = None) -> Path:
    """Stores what the network ``features`` (a file's of discli/data/teachers) makes of all images in a data file.

    It sees the images as the file holds them; latents are decoded, by the autoencoder at ``vae`` where it is no
    longer where it was. A file that has the features already is left alone. Raises DiscliError where the file
    holds others of that name or cannot be written, for images that the network cannot take, and where its weights
    are not there; with status 130 on Ctrl-C.
    """
    found = find_plugin(FOLDER, FIRST, "--features", features)
    import torch

    from discli.data.autoencoders import load_codec
    from discli.runtime.devices import pick_device

    path = Path(path)
    store = Store(path, parts=True)
    where = pick_device(device)
    teacher = found.load()(store.contract.resolution, where)
    codec = None if store.contract.codec.is_pixels else load_codec(store.contract.codec, where, vae)

    def see(rows: range) -> Features:
        indices = np.arange(rows.start, rows.stop)
        found: list[Features] = []
        with torch.inference_mode():
            for some in store.in_turn(indices, len(indices)):
                images = store.read(some)
                if codec is not None:
                    images = codec.decode(store.contract.codec.to_model_space(images))
                found.append(teacher(images).half().cpu().numpy())
        return np.concatenate(found)

    write_grid(path, teacher.grid, see, _CPU_BATCH if where.type == "cpu" else _GPU_BATCH)
    return path


def write_grid(path: Path, grid: FeatureGrid, compute: Callable[[range], Features], batch: int) -> Store:
    """Adds ``grid`` to the data file, or to each of several: ``compute`` gives rows (k, rows, columns, channels).

    Always of whole batches of a file's samples but the last, so that going on where another process was killed
    changes no bit.
    """
    for shard in Store(path, parts=True).shards:
        places = range(shard.start, shard.start + len(shard))
        _write_to_file(shard.path, grid, lambda rows, places=places: compute(places[rows.start : rows.stop]), batch)  # type: ignore[misc]
    return Store(path, parts=True)


@hold_ctrl_c()
def _write_to_file(path: Path, grid: FeatureGrid, compute: Callable[[range], Features], batch: int) -> None:
    store = Store(path, parts=True)
    held, total = store.contract.grid(grid.name), len(store)
    beside = path.with_name(path.name + ".features")
    if held is not None:
        if held != grid:
            raise DiscliError(
                f"{path} holds features called {grid.name} already, of another network ({held.weights_sha256[:8]}).",
                "Give these another name, or encode the images again.",
            )
        stderr.print(f"{path} has the features of {grid.name} already.")
        return
    row_bytes = int(np.prod(grid_shape(grid, 1))) * np.dtype(np.float16).itemsize
    partial = partial_of(beside)
    settings = {"contract": store.contract.model_dump(mode="json"), "grid": grid.model_dump(mode="json")}
    try:
        log = ResumeLog(beside, settings)
    except OSError as error:
        raise DiscliError(f"Cannot write beside {path}: {error.strerror}.", "Copy it to where you may write.") from None
    try:
        state = log.resume(0, total if partial.exists() else -1)
        if not log.begun or not partial.exists():
            needed = path.stat().st_size + total * row_bytes
            _check_room(path, needed)
            _copy_to_grow(path, partial, store.contract, grid)
            log.commit(state, [])
        set_finished(partial, True)  # for a moment, where an earlier process has left it
        with h5py.File(partial, "r") as file:
            offset = file[grid.dataset].id.get_offset()
        set_finished(partial, False)
        if state.rows:
            stderr.print(f"Resuming after {state.rows:,} of {total:,} images.")
        with partial.open("r+b", buffering=0) as raw, progress("features", total, "images", state.rows) as ticker:
            last_commit = time.monotonic()
            for start in range(state.rows, total, batch):
                rows = compute(range(start, min(start + batch, total)))
                if not np.isfinite(rows).all():
                    raise DiscliError(
                        f"{grid.name} gives infinite or undefined features near image {start:,}.",
                        "These images are not for it; choose another teacher.",
                    )
                _write_at(raw.fileno(), rows, offset + start * row_bytes)
                if time.monotonic() - last_commit > _SECONDS_BETWEEN_COMMITS:
                    os.fsync(raw.fileno())
                    log.commit(State(end=start + len(rows), rows=start + len(rows)), [])
                    last_commit = time.monotonic()
                ticker.advance(len(rows))
            os.fsync(raw.fileno())
        set_finished(partial, True)
        partial.replace(path)
        sync(path.parent)
        log.close(remove=True)
    except KeyboardInterrupt:
        raise DiscliError(
            f"Stopped; {path} is as it was.", "Run the same command again to go on with its features.", status=130
        ) from None
    except OSError as error:
        raise DiscliError(
            f"Writing {partial} failed: {error.strerror}; {path} is as it was.",
            "Make room and run the same command again: it resumes.",
        ) from None
    finally:
        log.close()
    stderr.print(f"{path}: features of {grid.name}, {format_bytes(total * row_bytes)}")


def merge_grids(parts: Sequence[Shard], merged: Path) -> Store:
    """The features that all ``parts`` hold, in the file made of their samples."""
    for grid in parts[0].contract.grids:
        rows = JoinedRows([part.grids[grid.name] for part in parts])
        write_grid(merged, grid, lambda wanted, rows=rows: rows[wanted.start : wanted.stop], batch=1024)  # type: ignore[misc]
    return Store(merged)


def _copy_to_grow(path: Path, partial: Path, contract: DataContract, grid: FeatureGrid) -> None:
    """All that HDF5 has to write, before hours of work: see `set_finished`."""
    shutil.copyfile(path, partial)
    with open_to_grow(partial) as file:
        allocate(file, grid.dataset, grid_shape(grid, contract.num_samples), "float16")
        del file["contract"]
        grown = contract.model_copy(update={"grids": (*contract.grids, grid)})
        file.create_dataset("contract", data=grown.model_dump_json(), dtype=h5py.string_dtype())
    sync(partial)


def _write_at(descriptor: int, rows: Features, at: int) -> None:
    left = np.ascontiguousarray(rows, np.float16).reshape(-1).view(np.uint8).data
    while left.nbytes:
        written = os.pwrite(descriptor, left, at)  # a part of it, say where the disk is full
        left, at = left[written:], at + written


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DiscliError(
            f"{path} with features needs {format_bytes(needed)} more while they are written,"
            f" {path.parent.resolve()} has {format_bytes(free)} free.",
            "Free some, or copy the file to where there is more.",
        )
