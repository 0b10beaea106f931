"""Opening finished data files: each is checked to hold what its contract says, and nothing that leads elsewhere."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from discli.data.channel_moments import ChannelMoments
from discli.data.layout import FORMAT, SIGNATURE, UNFINISHED
from discli.data.mapped import mapped
from discli.data.shards import Shard
from discli.data.writer import partial_of
from discli.recipe.contract import DataContract, FeatureGrid
from discli.recipe.data_files import files_of
from discli.runtime.errors import DiscliError


def shards_at(where: Path) -> tuple[list[Shard], DataContract | None]:
    """All files that ``where`` names, in that order; and what a virtual file promises of the parts it names."""
    files = files_of(where)
    if len(files) > 1:
        return [_shard(file) for file in files], None
    with opened(files[0]) as held:
        if not held["samples"].is_virtual:
            return [_read(files[0], held)], None
        promised = _contract(held["contract"], files[0])
        named = [Path(source.file_name) for source in held["samples"].virtual_sources()]
    found = [files[0].parent / file for file in named]
    missing = [file for file in found if not file.is_file()]
    if missing:
        raise DiscliError(
            f"{files[0]} is virtual: it reads from {missing[0]}, which is not there"
            + (f", nor are {len(missing) - 1:,} more." if len(missing) > 1 else "."),
            f"Move it back, or delete {files[0].name} and merge again where its parts are.",
        )
    return [_shard(file) for file in found], promised


def _shard(path: Path) -> Shard:
    with opened(path) as held:
        if held["samples"].is_virtual:
            raise DiscliError(f"{path} is virtual, and so no part of more.", "Name the files that it was merged from.")
        return _read(path, held)


def _read(path: Path, held: "Held") -> Shard:
    contract = _contract(held["contract"], path)
    start, stop, total = held.attribute("positions")
    moments = held.attribute("moments")
    shape = (contract.num_samples, *contract.row_shape)
    return Shard(
        path,
        contract,
        (start, stop, total),
        _labels(held, contract),
        _mapped(held, "samples", shape, contract.dtype, path),
        {
            grid.name: _mapped(held, grid.dataset, grid_shape(grid, contract.num_samples), "float16", path)
            for grid in contract.grids
        },
        _shape_numbers(held, contract),
        ChannelMoments(**json.loads(moments)) if moments is not None else None,
    )


@contextmanager
def opened(path: Path) -> Iterator["Held"]:
    """A finished file. Whatever is wrong with what is read within becomes a DiscliError."""
    try:
        file = _file(path)
        try:
            yield Held(file, path)
        finally:
            file.close()
    except DiscliError:
        raise
    except Exception as error:  # what h5py and the HDF5 library stumble over: KeyError, RuntimeError, TypeError, ...
        why = error if isinstance(error, ValueError | OSError) else "it is not as discli encode writes"
        raise DiscliError(
            f"{path} is corrupt ({why}).",
            "Copy it again from where it was written, or encode it again.",
        ) from None


def grid_shape(grid: FeatureGrid, samples: int) -> tuple[int, int, int, int]:
    """Of the dataset that holds it."""
    return (samples, *grid.side, grid.channels)


def _mapped(held: "Held", name: str, shape: tuple[int, ...], dtype: str, path: Path) -> npt.NDArray[Any]:
    """All of a dataset, mapped. Raises ValueError where it is not what the contract says."""
    rows = held[name]
    offset = rows.id.get_offset()
    if rows.shape != shape or rows.dtype != np.dtype(dtype):
        raise ValueError(f"{name} are {rows.dtype} {rows.shape}, the contract says {dtype} {shape}")
    if not rows.size:
        return np.empty(shape, rows.dtype)
    if offset is None:
        raise ValueError(f"{name} are not stored in one piece")
    return mapped(path, offset, shape, rows.dtype)


def _labels(held: "Held", contract: DataContract) -> npt.NDArray[np.int64] | None:
    """(n,), each the number of a class. Raises ValueError where they are not."""
    if "labels" not in held:
        if contract.num_classes:
            raise ValueError("names of classes, but no labels")
        return None
    labels = held["labels"][...]
    if labels.shape != (contract.num_samples,) or labels.dtype != np.int64:
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, of {contract.num_samples} samples")
    if len(labels) and (labels.min() < 0 or labels.max() >= contract.num_classes):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, of {contract.num_classes} classes")
    return np.asarray(labels)


def _shape_numbers(held: "Held", contract: DataContract) -> npt.NDArray[np.uint8] | None:
    """(n,), each the number of a shape. Raises ValueError where they are not."""
    if not contract.shapes:
        return None
    shapes = held["shapes"][...]
    if shapes.shape != (contract.num_samples,) or shapes.dtype != np.uint8:
        raise ValueError(f"shapes are {shapes.dtype} {shapes.shape}, of {contract.num_samples} samples")
    if len(shapes) and shapes.max() >= len(contract.shapes):
        raise ValueError(f"shape {shapes.max()}, of {len(contract.shapes)}")
    return np.asarray(shapes)


def _file(path: Path) -> h5py.h5f.FileID:
    if path.is_dir():
        raise DiscliError(
            f"{path} is a folder, not a data file.",
            f"Make one of its images: discli encode {path} --res SIDE --out FILE.h5",
        )
    if not path.is_file():
        if partial_of(path).is_file():
            raise _unfinished(path)
        raise DiscliError(f"{path} does not exist.", "Write it with discli encode, or check its name.")
    with path.open("rb") as raw:
        start = raw.read(len(SIGNATURE))
    if start == UNFINISHED[: len(SIGNATURE)]:
        raise _unfinished(path)
    try:
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
        access.set_file_locking(False, True)
        return h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, access)
    except OSError as error:
        if "truncated file" in str(error):
            raise DiscliError(
                f"{path} is cut short ({path.stat().st_size:,} bytes are there).",
                "Copy it again from where it was written, or encode it again.",
            ) from None
        raise DiscliError(
            f"{path} is not an HDF5 file that can be read.", "Give one that discli encode wrote."
        ) from None


class Held:
    """What a finished file holds, by name, looked up when it is asked for: of a thousand files, that counts.

    HDF5 reads on in any other file that a link or a dataset's storage names: what was sent must be all that is read.
    But for samples and features in virtual storage, which HDF5 never reads here: the files that it names are opened
    as data files of their own (`shards_at`).
    """

    def __init__(self, file: h5py.h5f.FileID, path: Path) -> None:
        self._root, self._path = h5py.h5g.open(file, b"/"), path
        if self.attribute("format") != FORMAT:
            raise DiscliError(
                f"{path} is an HDF5 file, but discli encode did not write it.", "Encode its images first."
            )
        if not self.attribute("finished"):
            raise _unfinished(path)

    def attribute(self, name: str) -> Any:
        """None where there is none."""
        try:
            attribute = h5py.h5a.open(self._root, name.encode())
        except KeyError:
            return None
        value = np.empty(attribute.shape, attribute.dtype)
        attribute.read(value)
        found = value.tolist()
        return found.decode() if isinstance(found, bytes) else found

    def __contains__(self, name: str) -> bool:
        return bool(self._root.links.exists(name.encode()))  # which, unlike ``in``, does not follow a link

    def __getitem__(self, name: str) -> h5py.Dataset:
        # Asked before the dataset is touched, for a link is followed, and a file opened, by looking at it.
        if self._root.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            where = "a link"
        else:
            dataset = h5py.Dataset(h5py.h5d.open(self._root, name.encode()))
            storage = dataset.id.get_create_plist()
            virtual = storage.get_layout() == h5py.h5d.VIRTUAL and not name.startswith(("samples", "features."))
            if not (storage.get_external_count() or virtual):
                return dataset
            where = "external or virtual storage"
        raise DiscliError(
            f"{self._path} does not hold its {name}: {where} leads elsewhere.",
            "Encode again: discli encode writes one file.",
        )


def _contract(dataset: h5py.Dataset, path: Path) -> DataContract:
    try:
        return DataContract.model_validate_json(dataset[()])
    except ValidationError as error:
        what = ".".join(["contract", *(str(part) for part in error.errors()[0]["loc"])])
        raise DiscliError(
            f"{path} was written by another version of discli: its {what} is not understood here.",
            "Use that version, or encode again.",
        ) from None


def _unfinished(path: Path) -> DiscliError:
    return DiscliError(f"{path} is unfinished.", "Run the same discli encode command again: it resumes.")
